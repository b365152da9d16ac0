"""faulty_pair - two real KMEs with a bad link between them, killed and started again under load."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from fault_proxy import FaultProxy, Mode
from kme.epochs.random_source import FILE_BYTES
from kme.etsi014.client import Sae014Client, open_client
from kme.ids import KmeId, SaeId
from kme.pair import KME_IDS, KmePlace, free_ports
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
_POLL_S: Final = 0.02
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
    n_switches
        How often a proxy changed its mode.
    n_open_granules
        Sum of what was claimed and open at each death, in granules: no more
        may be burnt.
    max_open_granules
        The most of it at one death.
    n_fed
        How many files of final key both KMEs were given.
    """

    n_kills: int = 0
    n_switches: int = 0
    n_open_granules: int = 0
    max_open_granules: int = 0
    n_fed: int = 0

    @property
    def fed_bytes(self) -> int:
        """How much final key both KMEs were given."""
        return self.n_fed * FILE_BYTES


class FaultyPair:
    """A pair whose peer interfaces are reached through proxies.

    Parameters
    ----------
    directory
        Its folder.
    seed
        Of everything that is left to chance.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.host = PairOnHost(directory, SETTINGS)
        self.kmes: dict[KmeId, KmePlace] = {place.id: place for place in self.host.pair.kmes}
        self.faults = Faults()
        self.processes = KmeProcesses()
        self._seeds = random.Random(seed)
        ports = free_ports(len(self.kmes))
        self.proxies: dict[KmeId, FaultProxy] = {
            place.id: FaultProxy(port, place.peer_port, self.rng())
            for place, port in zip(self.kmes.values(), ports, strict=True)
        }
        self._detour()
        self.load = SaeLoad(self._client, self.rng())

    def rng(self) -> random.Random:
        """Return dice of their own, by the seed."""
        return random.Random(self._seeds.random())

    def _detour(self) -> None:
        """Have each KME reach the other one through the proxy before it."""
        for place, other in itertools.permutations(self.kmes.values()):
            there = f":{self.proxies[other.id].port}"
            text = place.config.read_text()
            assert other.peer_url in text
            direct = f":{other.peer_port}"
            text = text.replace(other.peer_url, other.peer_url.replace(direct, there))
            place.config.write_text(text)

    def _client(self, sae: SaeId) -> AbstractAsyncContextManager[Sae014Client]:
        place, pki = self.host.pair.home_of(sae), self.host.pair.pki
        return open_client(place.sae_url, pki.sae_certificates[sae], pki.service_ca, place.id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyPair"]:
        """Run KMEs, proxies and SAEs; at the end all ids are drawn and both KMEs stopped."""
        with self.processes.all_ended():
            one, other = (proxy.running() for proxy in self.proxies.values())
            async with one, other:
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
                await _either(over, _FEED_EVERY_S)

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
        begun_s = time.monotonic()
        given, asked = self.load.history.given, self.load.history.asked
        from_given, from_asked = len(given), len(asked)
        async with asyncio.timeout(BACK_S):
            while True:
                masters = {one.master for one in given[from_given:]}
                slaves = {one.caller for one in asked[from_asked:] if one.key is not None}
                if len(masters) == len(KME_IDS) == len(slaves):
                    return time.monotonic() - begun_s
                await asyncio.sleep(_POLL_S)

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
        """Make the link bad in one way after another, in one or both directions; then good."""
        rng = self.rng()
        for mode in _shuffled_for_ever(rng):
            for proxy in rng.choice([[one] for one in self._both] + [self._both]):
                proxy.switch(mode)
                self.faults.n_switches += 1
            await _either(over, rng.uniform(0.2, 2.5))
            self.heal()
            if over.is_set():
                return
            await _either(over, rng.uniform(0.2, 1.5))

    def heal(self) -> None:
        """Make the link good."""
        for proxy in self._both:
            proxy.switch(Mode.PASS)

    @property
    def _both(self) -> list[FaultProxy]:
        return list(self.proxies.values())


def _shuffled_for_ever(rng: random.Random) -> Iterator[Mode]:
    """Return all modes that are faults in a random order, and again."""
    modes = [mode for mode in Mode if mode is not Mode.PASS]
    while True:
        yield from rng.sample(modes, len(modes))


async def _either(event: "asyncio.Event", timeout_s: float) -> None:
    """Wait for an event, but no longer than so."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
