"""vault_pair - two KMEs with a real Vault each, whose processes are killed under load."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from bad_link import BadLink, either
from kme.clock import SystemClock
from kme.epochs.random_source import FILE_BYTES, RandomSource
from kme.errors import KmeError
from kme.etsi014.client import Sae014Client, open_client
from kme.ids import SaeId
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.watcher import Watcher
from kme.pair import DEFAULT_SAES, KmePlace, Pair, PairPlan, free_ports, lay_out
from kme.secret import Secret
from kme.store.records import SourceClass
from kme.store.vault import VaultStore
from kme.store.vault.roomstate import RoomState
from kme.vault.documents import Documents
from kme.vault.session import VaultSession
from real_vault import RealVault
from rest_service import DIGEST_KEY, SOURCE, RestService
from sae_load import SaeLoad
from vault_audit import KeptInVault
from waiting import until

BACK_S: Final = 90.0
"""Both KMEs must hand keys over in both directions again so soon after the last fault.

It takes about ten seconds, most of them until a lease of the killed service counts as lapsed.
"""

N_WORKERS: Final = 3

_FEED_EVERY_S: Final = 5.0
_LOOK_S: Final = 0.1
_SAMPLE_S: Final = 0.25
_REST_LIFE_S: Final = (1.0, 10.0)
_VAULT_LIFE_S: Final = (5.0, 25.0)
_DOWN_S: Final = (0.0, 0.0, 0.5, 3.0)


class Victim(Enum):
    """What is killed: a worker, the elected one, gunicorn with all of them, Vault."""

    WORKER = "worker"
    ELECTED = "elected"
    SERVICE = "service"
    VAULT = "vault"


_IN_REST: Final = (Victim.WORKER, Victim.WORKER, Victim.ELECTED, Victim.SERVICE)


@dataclass
class VaultFaults:
    """What a run did to the pair.

    Parameters
    ----------
    kills
        How often each kind of victim was killed.
    n_workers_died
        How many processes with claims of their own ended so.
    held
        The most granules that each worker was seen to have claimed and not given back.
    n_fed
        How many files of final key both KMEs were given.
    """

    kills: Counter[Victim] = field(default_factory=Counter)
    n_workers_died: int = 0
    held: dict[str, int] = field(default_factory=dict)
    n_fed: int = 0

    @property
    def n_kills(self) -> int:
        """All kills."""
        return self.kills.total()

    @property
    def fed_bytes(self) -> int:
        """How much final key both KMEs were given."""
        return self.n_fed * FILE_BYTES

    @property
    def may_be_burnt(self) -> int:
        """So many granules at most were held by workers when they ended, however they ended."""
        return sum(self.held.values())


class VaultKme:
    """One KME: its Vault, its rest service, and a watcher in this process.

    Parameters
    ----------
    place, peer
        Itself and the other one.
    pair
        Both.
    """

    def __init__(self, place: KmePlace, peer: KmePlace, pair: Pair) -> None:
        self.place, self.peer = place, peer
        self.vault = RealVault(place.folder / "vault")
        self.rest = RestService(place, peer, pair, self.vault, place.folder, N_WORKERS)
        self.kept: KeptInVault | None = None

    @asynccontextmanager
    async def running(self, peer_url: str) -> AsyncIterator["VaultKme"]:
        """Run all of it; the peer is reached at this address."""
        homes = self.rest.pair.saes
        here, there = (
            [sae for sae, home in homes.items() if home == place.id]
            for place in (self.place, self.peer)
        )
        over = asyncio.Event()
        with self.vault.running():
            self.rest.set_up()
            session = VaultSession(self.vault.access())
            await session.open()
            documents = Documents(session)
            await self.rest.connect(documents, peer_url)
            await self.rest.register(documents, here, there)
            store = await VaultStore.open(self.place.id, documents, Secret(DIGEST_KEY))
            self.kept = KeptInVault(self.place.id, self.peer.id, documents, store)
            feed = Feed(self.peer.id, SOURCE, self.place.epochs)
            watcher = Watcher(Ingest(store, SystemClock()), [feed], _LOOK_S)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(watcher.run(over))
                    await self.rest.open_front()
                    self.rest.start()
                    yield self
                    over.set()
                assert watcher.counts.n_failures == 0
            finally:
                self.rest.kill_all()
                await self.rest.close_front()
                await store.close()
                await session.close()

    async def sample_claims(self, faults: VaultFaults, over: "asyncio.Event") -> None:
        """Look again and again how much each worker has claimed and not given back."""
        assert self.kept is not None
        while not over.is_set():
            with suppress(KmeError):
                found = await self.kept.documents.read(f"room/{self.peer.id}")
                held: Counter[str] = Counter()
                for claim in RoomState.from_data(found.data if found else {}).claims.values():
                    held[claim.worker] += claim.reserved.n_granules
                for worker, n_granules in held.items():
                    faults.held[worker] = max(n_granules, faults.held.get(worker, 0))
            await either(over, _SAMPLE_S)

    async def at_rest(self) -> None:
        """Wait until all final keys were made into blocks."""
        assert self.kept is not None
        await until(lambda: not any(self.place.epochs.iterdir()), BACK_S)
        async with asyncio.timeout(BACK_S):
            while True:
                if await self.kept.is_at_rest():
                    return
                await asyncio.sleep(_LOOK_S)


class VaultPair:
    """Both KMEs, proxies between them, SAEs that work all the time.

    Parameters
    ----------
    directory
        Everything it keeps.
    seed
        Of everything that is left to chance.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        plan = PairPlan(directory, free_ports(4), DEFAULT_SAES, SOURCE, SourceClass.QKD)
        self.pair = lay_out(plan)
        one, other = self.pair.kmes
        self.kmes = (VaultKme(one, other, self.pair), VaultKme(other, one, self.pair))
        self.faults = VaultFaults()
        self._seeds = random.Random(seed)
        self.link = BadLink({place.id: place for place in self.pair.kmes}, self.rng())
        self.load = SaeLoad(self._client, self.rng(), draws_by_block=True)
        self._source = RandomSource((one.epochs, other.epochs), directory / "last-epoch")

    def rng(self) -> random.Random:
        """Return dice of their own, by the seed."""
        return random.Random(self._seeds.random())

    @property
    def n_lost(self) -> int:
        """How many requests were passed on to a service that never answered them."""
        return sum(hop.n_lost for kme in self.kmes for hop in kme.rest.hops)

    def _client(self, sae: SaeId) -> AbstractAsyncContextManager[Sae014Client]:
        place, pki = self.pair.home_of(sae), self.pair.pki
        return open_client(place.sae_url, pki.sae_certificates[sae], pki.service_ca, place.id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["VaultPair"]:
        """Run everything; afterwards all ids are drawn, the services stopped, Vault still runs."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.link.running())
            for kme in self.kmes:
                await stack.enter_async_context(kme.running(self.link.url_of(kme.peer.id)))
            yield self

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Have SAEs work and final keys come in while the block lasts; then let all settle."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for kme in self.kmes:
                tasks.create_task(kme.sample_claims(self.faults, over))
            feeding = tasks.create_task(self._feed(over))
            async with self.load.running():
                await self.load.is_back(BACK_S)
                yield
            over.set()
            await feeding
        for kme in self.kmes:
            await kme.at_rest()
        for kme in self.kmes:
            assert await asyncio.to_thread(kme.rest.stop) == 0

    async def _feed(self, over: "asyncio.Event") -> None:
        while not over.is_set():
            if not self._source.is_full():
                await asyncio.to_thread(self._source.feed)
                self.faults.n_fed += 1
            await either(over, _FEED_EVERY_S)

    # Faults

    async def kill_rest_now_and_then(self, kme: VaultKme, over: "asyncio.Event") -> None:
        """Kill workers and whole services at random moments, until told to end."""
        rng, rest = self.rng(), kme.rest
        for victim in _shuffled_for_ever(rng):
            await either(over, rng.uniform(*_REST_LIFE_S))
            if over.is_set():
                return
            assert not rest.is_dead(), "the service ended by itself: see its log"
            if victim is Victim.SERVICE:
                self.faults.n_workers_died += len(rest.workers())
                await asyncio.to_thread(rest.kill_all)
                await asyncio.sleep(rng.choice(_DOWN_S))
                rest.start()
            elif not self._kill_worker(rest, rng, is_elected=victim is Victim.ELECTED):
                continue
            self.faults.kills[victim] += 1

    def _kill_worker(self, rest: RestService, rng: random.Random, *, is_elected: bool) -> bool:
        """Kill a worker; False if there is none just now."""
        pid = None
        if is_elected:
            with suppress(FileNotFoundError):
                pid = rest.elected()
        elif workers := rest.workers():
            pid = rng.choice(workers)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.faults.n_workers_died += 1
        return True

    async def kill_vault_now_and_then(self, kme: VaultKme, over: "asyncio.Event") -> None:
        """Kill Vault at random moments, start it again after a while and unseal it."""
        rng = self.rng()
        while not over.is_set():
            await either(over, rng.uniform(*_VAULT_LIFE_S))
            await asyncio.to_thread(kme.vault.kill)
            self.faults.kills[Victim.VAULT] += 1
            await asyncio.sleep(rng.choice(_DOWN_S))
            await asyncio.to_thread(kme.vault.start)
            await asyncio.to_thread(kme.vault.unseal)


def _shuffled_for_ever(rng: random.Random) -> Iterator[Victim]:
    """Return all victims in rest in a random order, and again."""
    while True:
        yield from rng.sample(_IN_REST, len(_IN_REST))
