"""bad_link - the way between two KMEs, which becomes bad in one way after another."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from fault_proxy import FaultProxy, Mode
from kme.ids import KmeId
from kme.pair import KmePlace, free_ports

_BAD_S: Final = (0.2, 2.5)
_GOOD_S: Final = (0.2, 1.5)


class BadLink:
    """One proxy before the peer interface of each KME.

    Parameters
    ----------
    kmes
        The two.
    rng
        How long delays are.
    """

    def __init__(self, kmes: Mapping[KmeId, KmePlace], rng: random.Random) -> None:
        ports = free_ports(len(kmes))
        self.proxies: dict[KmeId, FaultProxy] = {
            place.id: FaultProxy(port, place.peer_port, random.Random(rng.random()))
            for place, port in zip(kmes.values(), ports, strict=True)
        }
        self._kmes = kmes
        self.n_switches = 0

    def url_of(self, kme: KmeId) -> str:
        """Return where a KME's peer interface is reached."""
        place = self._kmes[kme]
        return place.peer_url.replace(f":{place.peer_port}", f":{self.proxies[kme].port}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        async with AsyncExitStack() as stack:
            for proxy in self.proxies.values():
                await stack.enter_async_context(proxy.running())
            yield

    async def switch_now_and_then(self, rng: random.Random, over: "asyncio.Event") -> None:
        """Make the link bad in one way after another, in one or both directions; then good."""
        both = list(self.proxies.values())
        for mode in _shuffled_for_ever(rng):
            for proxy in rng.choice([[one] for one in both] + [both]):
                proxy.switch(mode)
                self.n_switches += 1
            await either(over, rng.uniform(*_BAD_S))
            self.heal()
            if over.is_set():
                return
            await either(over, rng.uniform(*_GOOD_S))

    def heal(self) -> None:
        """Make the link good."""
        for proxy in self.proxies.values():
            proxy.switch(Mode.PASS)


def _shuffled_for_ever(rng: random.Random) -> Iterator[Mode]:
    """Return all modes that are faults in a random order, and again."""
    modes = [mode for mode in Mode if mode is not Mode.PASS]
    while True:
        yield from rng.sample(modes, len(modes))


async def either(event: "asyncio.Event", timeout_s: float) -> None:
    """Wait for an event, but no longer than so."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
