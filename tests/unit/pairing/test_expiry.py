import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from kme.errors import KeyNotFoundError, StoreUnavailableError
from kme.ids import Epoch
from kme.pairing.expiry import KeyExpiry
from kme.pairing.pairing import Pairing
from kme.pairing.ports import Heartbeat
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import (
    MAX_EXPIRIES,
    Expiry,
    FinalKeyRef,
    Frontier,
    GranuleRange,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    ScriptedLink,
    config_of,
    end_of,
)
from simulation import VirtualClock, run_virtual

LIFETIME_S = 6400
"""An expiry may be noted every 100 s."""

BLOCK_GRANULES = 128


@dataclass
class Bench:
    """kme-a, where keys are drawn of blocks that kme-b owns."""

    clock: VirtualClock
    steps: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    lifetime_s: int = LIFETIME_S

    def __post_init__(self) -> None:
        self.store = MemoryStore(ALICE_KME, self._pause)
        self.start()

    async def _pause(self, step: str) -> None:
        self.steps.append(step)
        if step in self.failing:
            raise StoreUnavailableError(f"simulated time-out {step}")

    def start(self) -> None:
        """Begin a new process."""
        end = end_of(ALICE_KME, self.store, self.clock)
        config = replace(end.config, lifetime_s=self.lifetime_s)
        self.expiry = KeyExpiry(end.peer, end.store, end.clock, config.lifetime_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.expiry.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def add_block(self, number: int, lifetime_s: int = LIFETIME_S) -> None:
        entry = FinalKeyRef(LINK, Epoch(number))
        proposal = Proposal(number, BOB_KME, (entry,), lifetime_s, SourceClass.QKD, bytes(16))
        key = Secret(bytes([number]) * 8 * BLOCK_GRANULES)
        await self.store.settle(BOB_KME, Settlement(proposal, Verdict.EQUAL), key)

    async def noted(self) -> list[Expiry]:
        return await self.store.expiries(BOB_KME)

    async def is_drawable(self, number: int, granule: int) -> bool:
        """Try it; who can draw a granule has drawn it."""
        try:
            await self.store.draw(BOB_KME, [GranuleRange(number, granule, granule + 1)])
        except KeyNotFoundError:
            return False
        return True

    def count(self, call: str) -> int:
        return self.steps.count(f"before {call}")


def on_a_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    run_virtual(lambda clock: test(Bench(clock)))


def test_what_is_behind_the_frontier_expires_a_lifetime_after_it_was_heard() -> None:
    async def test(bench: Bench) -> None:
        for number in (1, 2, 3):
            await bench.add_block(number)
        async with bench.running():
            bench.expiry.heard(Frontier(3, {2: 20}))
            await bench.clock.sleep(LIFETIME_S - 10)
            assert await bench.is_drawable(1, 8)
            assert await bench.is_drawable(2, 8)
            await bench.clock.sleep(80)
            assert not await bench.is_drawable(1, 9)
            assert await bench.store.block(BOB_KME, 1) is None
            assert not await bench.is_drawable(2, 19)
            assert await bench.is_drawable(2, 20)
            assert await bench.is_drawable(3, 8)
            assert await bench.noted() == []

    on_a_bench(test)


def test_a_frontier_is_noted_at_most_once_in_a_64th_of_a_lifetime_and_only_if_it_is_news() -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        async with bench.running():
            for granule in range(8, 28):
                bench.expiry.heard(Frontier(2, {1: granule}))
                await bench.clock.sleep(20)
            noted = await bench.noted()
            assert len(noted) in {4, 5}
            for earlier, later in pairwise(noted):
                assert later.due_unix_s >= earlier.due_unix_s + 100
            await bench.clock.sleep(300)
            assert (await bench.noted())[-1].frontier == Frontier(2, {1: 27})
            n_noted, n_read = len(await bench.noted()), len(bench.steps)
            await bench.clock.sleep(LIFETIME_S / 2)
            assert len(await bench.noted()) == n_noted
            n_sweeps = LIFETIME_S / 2 // 600 + 1
            assert len(bench.steps) <= n_read + 2 + 2 * n_sweeps, "an idle peer costs much"

    on_a_bench(test)


def test_never_too_many_expiries_wait_however_lifetimes_change_and_often_it_restarts() -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        granule = 8
        for lifetime_s in (LIFETIME_S, 64, LIFETIME_S, 1, 10 * LIFETIME_S):
            bench.lifetime_s = lifetime_s
            for _ in range(400):
                bench.start()
                async with bench.running():
                    bench.expiry.heard(Frontier(2, {1: granule}))
                    granule += 1
                    await bench.clock.sleep(lifetime_s / 200)
                assert len(await bench.noted()) < MAX_EXPIRIES
        assert bench.count("note_expiry") > 100

    on_a_bench(test)


def test_after_a_restart_what_was_noted_still_holds() -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        await bench.add_block(2)
        async with bench.running():
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(70)
        before = await bench.noted()
        bench.start()
        async with bench.running():
            await bench.clock.sleep(200)
            bench.expiry.heard(Frontier(1))
            await bench.clock.sleep(200)
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(200)
            assert await bench.noted() == before
            assert bench.count("note_expiry") == 1
            await bench.clock.sleep(LIFETIME_S)
        assert await bench.store.block(BOB_KME, 1) is None
        assert await bench.is_drawable(2, 8)

    on_a_bench(test)


@pytest.mark.parametrize(
    "older", [Frontier(3, {2: 8}), Frontier(4, {2: 19}), Frontier(4, {1: 100, 2: 20})]
)
def test_a_frontier_that_goes_back_changes_nothing(older: Frontier) -> None:
    async def test(bench: Bench) -> None:
        for number in (1, 2, 3):
            await bench.add_block(number)
        newer = Frontier(4, {2: 20})
        async with bench.running():
            bench.expiry.heard(newer)
            await bench.clock.sleep(70)
            bench.expiry.heard(older)
            await bench.clock.sleep(500)
            assert [expiry.frontier for expiry in await bench.noted()] == [newer]
            bench.expiry.heard(Frontier(4, {2: 21}))
            await bench.clock.sleep(70)
            assert len(await bench.noted()) == 2

    on_a_bench(test)


def test_a_frontier_behind_blocks_that_are_still_to_come_is_ignored_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        async with bench.running():
            bench.expiry.heard(Frontier(3))
            await bench.clock.sleep(300)
            assert await bench.noted() == []
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(70)
            assert [expiry.frontier for expiry in await bench.noted()] == [Frontier(2)]

    on_a_bench(test)


@pytest.mark.parametrize(("ours_s", "leaders_s"), [(900, LIFETIME_S), (LIFETIME_S, 900)])
def test_of_our_lifetime_and_the_newest_blocks_the_longer_one_holds(
    ours_s: int, leaders_s: int
) -> None:
    async def test(bench: Bench) -> None:
        bench.lifetime_s = ours_s
        bench.start()
        await bench.add_block(1, leaders_s)
        async with bench.running():
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(70)
            (noted,) = await bench.noted()
            assert LIFETIME_S - 70 <= noted.due_unix_s - bench.clock.now_s() <= LIFETIME_S

    on_a_bench(test)


def test_no_expiry_is_due_before_one_that_was_noted_earlier() -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        async with bench.running():
            bench.expiry.heard(Frontier(2, {1: 20}))
            await bench.clock.sleep(70)
            bench.expiry.heard(Frontier(2, {1: 30}))
            bench.clock.jump(-1000)
            await bench.clock.sleep(900)
            assert len(await bench.noted()) == 1
            await bench.clock.sleep(300)
            first, second = await bench.noted()
            assert first.due_unix_s + 100 <= second.due_unix_s

    on_a_bench(test)


@pytest.mark.parametrize("call", ["expiries", "note_expiry", "expire", "pairing"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_store_that_fails_delays_expiry_and_loses_nothing(call: str, moment: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        bench.failing.add(f"{moment} {call}")
        async with bench.running():
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(2 * LIFETIME_S)
            n_tries = bench.count(call)
            bench.failing.clear()
            await bench.clock.sleep(LIFETIME_S + 200)
            assert n_tries < 2 * LIFETIME_S / 50
            assert await bench.store.block(BOB_KME, 1) is None
            assert await bench.noted() == []

    on_a_bench(test)


def test_only_how_many_granules_expired_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test(bench: Bench) -> None:
        await bench.add_block(1)
        assert await bench.is_drawable(1, 10)
        async with bench.running():
            bench.expiry.heard(Frontier(2))
            await bench.clock.sleep(LIFETIME_S + 200)

    on_a_bench(test)
    (record,) = caplog.records
    assert record.message == "keys expired that were not drawn"
    assert vars(record)["n_granules"] == BLOCK_GRANULES - 8 - 1


def test_pairing_heeds_the_frontier_of_an_accepted_heartbeat_and_of_no_other() -> None:
    async def main(clock: VirtualClock) -> None:
        bench = Bench(clock)
        for number in (1, 2):
            await bench.add_block(number)
        peers = [(replace(config_of(BOB_KME), lifetime_s=64), ScriptedLink())]
        pairing = Pairing(ALICE_KME, bench.store, clock, peers)
        stop = asyncio.Event()
        running = asyncio.create_task(pairing.run(stop))
        for beat in (
            FIRST_HEARTBEAT,
            Heartbeat("1" * 32, "f" * 32, None, 2, 0, Frontier(2)),
            Heartbeat("9" * 32, "8" * 32, None, 2, 0, Frontier(3)),
        ):
            await pairing.on_heartbeat(BOB_KME, beat)
        await clock.sleep(2)
        assert [expiry.frontier for expiry in await bench.noted()] == [Frontier(2)]
        await clock.sleep(LIFETIME_S)
        assert await bench.store.block(BOB_KME, 1) is None
        assert await bench.store.block(BOB_KME, 2) is not None
        stop.set()
        await running

    run_virtual(main)
