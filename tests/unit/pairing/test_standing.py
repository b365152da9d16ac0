import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from kme.ids import Epoch
from kme.pairing.standing import StandingReader
from kme.store.memory import MemoryStore
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from simulated_pair import ALICE_KME, BOB_KME, LINK, end_of
from simulation import VirtualClock, run_virtual


@dataclass
class Bench:
    """A reader, its store, and how often it was read."""

    clock: VirtualClock
    store: MemoryStore
    reader: StandingReader
    steps: list[str]
    is_read: asyncio.Event

    async def settle(self, number: int) -> None:
        entry = FinalKeyRef(LINK, Epoch(number))
        proposal = Proposal(number, BOB_KME, (entry,), 60, SourceClass.QKD, bytes(16))
        await self.store.settle(BOB_KME, Settlement(proposal, Verdict.VOID), None)

    @property
    def n_readings(self) -> int:
        return self.steps.count("before pairing")


def on_a_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        steps: list[str] = []
        is_read = asyncio.Event()

        async def note(step: str) -> None:
            steps.append(step)
            if step == "after pairing":
                is_read.set()
            await asyncio.sleep(0)

        store = MemoryStore(ALICE_KME, note)
        reader = StandingReader(end_of(ALICE_KME, store, clock))
        await test(Bench(clock, store, reader, steps, is_read))

    run_virtual(main)


def test_both_directions_share_what_was_read_until_the_next_heartbeat_but_one() -> None:
    async def test(bench: Bench) -> None:
        assert (await bench.reader.recent()).settled == 0
        await bench.settle(1)
        bench.clock.advance(1.1)
        assert (await bench.reader.recent()).settled == 0
        assert bench.n_readings == 1
        bench.clock.advance(1)
        assert (await bench.reader.recent()).settled == 1
        assert bench.n_readings == 2

    on_a_bench(test)


def test_news_are_told_at_once() -> None:
    async def test(bench: Bench) -> None:
        await bench.reader.recent()
        await bench.settle(1)
        bench.reader.forget()
        assert (await bench.reader.recent()).settled == 1
        await bench.settle(2)
        assert (await bench.reader.fresh()).settled == 2
        assert (await bench.reader.recent()).settled == 2

    on_a_bench(test)


def test_what_was_read_before_the_news_is_not_kept() -> None:
    async def test(bench: Bench) -> None:
        reading = asyncio.create_task(bench.reader.recent())
        await bench.is_read.wait()
        await bench.settle(1)
        bench.reader.forget()
        await reading
        assert (await bench.reader.recent()).settled == 1

    on_a_bench(test)
