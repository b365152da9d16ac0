"""faulty_pair - two real KMEs with a bad link between them, killed and started again under load."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from bad_link import BadLink, either
from kme.epochs.random_source import FILE_BYTES
from kme.etsi014.client import Sae014Client, open_client
from kme.ids import KmeId, SaeId
from kme.pair import KmePlace
from kme_processes import Failpoint, KmeProcesses
from pair_on_host import QUICK, PairOnHost
from sae_load import SaeLoad
from store_audit import is_at_rest, open_granules
from waiting import until

SETTINGS: Final = {
    **QUICK,
    "log": {"level": "INFO"},
    "pairing": {**QUICK["pairing"], "lease_s": 4.0, "request_timeout_s": 3.0},
}

FAILPOINTS: Final[tuple[Failpoint, ...]] = tuple(
    (method, moment)
    for method in (
        "ingest", "settle", "raise_peer_settled", "claim", "give_back", "draw",
        "begin_heartbeat", "acknowledge_heartbeat", "accept_heartbeat", "block", "stock",
    )
    for moment in ("before", "after")
)  # fmt: skip

BACK_S: Final = 60.0
"""Both KMEs must hand keys over in both directions again so soon after the last fault.

It takes about two seconds; a host that is short of processors may need far longer.
"""

_FEED_EVERY_S: Final = 0.4
_FAILPOINT_S: Final = 4.0
_SHARE_AT_FAILPOINT: Final = 0.3
_LIFE_S: Final = (0.1, 2.0)
_DOWN_S: Final = (0.0, 0.0, 0.0, 0.2, 0.8)


@dataclass
class Faults:
    """What a run did to the pair.

    Parameters
    ----------
    n_kills
        How often a KME died.
    n_open_granules
        Sum of what was claimed and open at each death, in granules: no more
        may be burnt.
    max_open_granules
        The most of it at one death.
    n_fed
        How many files of final key both KMEs were given.
    """

    n_kills: int = 0
    n_open_granules: int = 0
    max_open_granules: int = 0
    n_fed: int = 0

    @property
    def fed_bytes(self) -> int:
        """How much final key both KMEs were given."""
        return self.n_fed * FILE_BYTES


class Link(Protocol):
    """The way between two KMEs, which becomes bad."""

    n_switches: int

    def running(self) -> AbstractAsyncContextManager[None]:
        """Be there until the block ends."""
        ...

    async def switch_now_and_then(self, rng: random.Random, over: "asyncio.Event") -> None:
        """Become bad in one way after another, until told to end; then good."""
        ...


class FaultyPair:
    """A pair whose peer interfaces are reached through proxies.

    Parameters
    ----------
    directory
        Its folder.
    seed
        Of everything that is left to chance.
    link
        The way between them; proxies if None.
    """

    def __init__(self, directory: Path, seed: int, link: Link | None = None) -> None:
        self.host = PairOnHost(directory, SETTINGS)
        self.kmes: dict[KmeId, KmePlace] = {place.id: place for place in self.host.pair.kmes}
        self.faults = Faults()
        self.processes = KmeProcesses()
        self._seeds = random.Random(seed)
        self.link = link or BadLink(self.kmes, self.rng())
        self._detour()
        self.load = SaeLoad(self._client, self.rng())

    def rng(self) -> random.Random:
        """Return dice of their own, by the seed."""
        return random.Random(self._seeds.random())

    def _detour(self) -> None:
        """Have each KME reach the other one through the proxy before it."""
        assert isinstance(self.link, BadLink)
        for place, other in itertools.permutations(self.kmes.values()):
            text = place.config.read_text()
            assert other.peer_url in text
            place.config.write_text(text.replace(other.peer_url, self.link.url_of(other.id)))

    def _client(self, sae: SaeId) -> AbstractAsyncContextManager[Sae014Client]:
        place, pki = self.host.pair.home_of(sae), self.host.pair.pki
        return open_client(
            self._sae_url(place), pki.sae_certificates[sae], pki.service_ca, place.id
        )

    def _sae_url(self, place: KmePlace) -> str:
        return place.sae_url

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyPair"]:
        """Run KMEs, proxies and SAEs; at the end all ids are drawn and both KMEs stopped."""
        with self.processes.all_ended():
            async with self.link.running():
                for place in self.kmes.values():
                    self.processes.start(place)
                async with self.load.running(), self._feeding():
                    await self.is_back()
                    yield self
                await self._settle()
            for kme in self.kmes:
                assert await asyncio.to_thread(self.processes.stop, kme) == 0

    @asynccontextmanager
    async def _feeding(self) -> AsyncIterator[None]:
        """Give both KMEs final key as long as the block lasts."""
        over = asyncio.Event()

        async def feed() -> None:
            while not over.is_set():
                if not self.host.source.is_full():
                    await asyncio.to_thread(self.host.source.feed)
                    self.faults.n_fed += 1
                await either(over, _FEED_EVERY_S)

        feeding = asyncio.create_task(feed())
        try:
            yield
        finally:
            over.set()
            await feeding

    async def _settle(self) -> None:
        """Wait until all final keys were taken in and made into blocks."""
        for place in self.kmes.values():
            await until(partial(is_at_rest, place), BACK_S)

    # Faults

    async def is_back(self) -> float:
        """Wait until keys go over in both directions; return how long that took in seconds."""
        return await self.load.is_back(BACK_S)

    async def kill_now_and_then(self, kme: KmeId, over: "asyncio.Event") -> None:
        """Kill a KME at random moments or steps and start it again, until told to end."""
        rng, place = self.rng(), self.kmes[kme]
        dies_at: Failpoint | None = None
        while not over.is_set():
            if dies_at is None:
                await asyncio.sleep(rng.uniform(*_LIFE_S))
            else:
                await self._is_dead(kme)
            await self._killed(kme)
            await asyncio.sleep(rng.choice(_DOWN_S))
            is_random = rng.random() > _SHARE_AT_FAILPOINT or over.is_set()
            dies_at = None if is_random else rng.choice(FAILPOINTS)
            await asyncio.to_thread(self.processes.start, place, dies_at)
        if dies_at is not None:
            await self._killed(kme)
            await asyncio.to_thread(self.processes.start, place)

    async def _is_dead(self, kme: KmeId) -> None:
        """Wait until it died at its failpoint; some are never reached."""
        with suppress(TimeoutError):
            await until(partial(self.processes.is_dead, kme), _FAILPOINT_S)

    async def _killed(self, kme: KmeId) -> None:
        """Kill a KME and count what was claimed."""
        await asyncio.to_thread(self.processes.kill, kme)
        n_open = await asyncio.to_thread(open_granules, self.kmes[kme])
        self.faults.n_kills += 1
        self.faults.n_open_granules += n_open
        self.faults.max_open_granules = max(self.faults.max_open_granules, n_open)

    async def switch_now_and_then(self, over: "asyncio.Event") -> None:
        """Make the link bad in one way after another; then good."""
        await self.link.switch_now_and_then(self.rng(), over)
