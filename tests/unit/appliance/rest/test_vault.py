"""Whoever needs Vault waits for it, and stops waiting when asked to."""

import asyncio

from kme.appliance.rest.settings import RestSettings
from kme.appliance.rest.vault import keep_trying, linked_peers
from kme.appliance.settings import LinkName
from kme.errors import StoreUnavailableError
from kme.ids import KmeId
from simulation import VirtualClock, run_virtual


class Vault:
    """Something that is away for a while."""

    def __init__(self, clock: VirtualClock, away_s: float) -> None:
        self.clock = clock
        self.back_s = clock.monotonic_s() + away_s
        self.tries_s: list[float] = []

    async def open(self) -> str:
        self.tries_s.append(self.clock.monotonic_s())
        if self.clock.monotonic_s() < self.back_s:
            raise StoreUnavailableError("sealed")
        return "open"


def test_it_is_tried_until_it_works_ever_more_seldom_up_to_a_bound() -> None:
    async def main(clock: VirtualClock) -> None:
        vault = Vault(clock, 60)
        assert await keep_trying("log in", vault.open, asyncio.Event()) == "open"
        pauses = [b - a for a, b in zip(vault.tries_s, vault.tries_s[1:], strict=False)]
        assert pauses[0] == 0.5
        assert max(pauses) == 5.0
        assert pauses == sorted(pauses)
        assert vault.tries_s[-1] - vault.back_s <= 5

    run_virtual(main)


def test_whoever_is_to_stop_tries_no_longer() -> None:
    async def main(clock: VirtualClock) -> None:
        vault, stop = Vault(clock, 60), asyncio.Event()
        waiting = asyncio.create_task(keep_trying("log in", vault.open, stop))
        await clock.sleep(12)
        stop.set()
        assert await waiting is None
        assert clock.monotonic_s() < vault.back_s

    run_virtual(main)


def test_a_peer_with_two_sources_is_one_peer() -> None:
    links = tuple(LinkName.read(text) for text in ("kme-3/a", "kme-2/a", "kme-3/b"))
    settings = RestSettings(id="kme-1", links=links)
    assert linked_peers(settings) == (KmeId("kme-3"), KmeId("kme-2"))
