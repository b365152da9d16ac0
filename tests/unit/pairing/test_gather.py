from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from kme.errors import PeerUnavailableError
from kme.ids import Epoch
from kme.pairing.gather import Gatherer
from kme.pairing.pair import MAX_ENTRIES
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import MAX_BLOCK_BYTES, FinalKeyRef
from simulated_pair import ALICE_KME, BOB_KME, LINK, ScriptedLink, end_of
from simulation import VirtualClock, run_virtual


def ref(epoch: int) -> FinalKeyRef:
    return FinalKeyRef(LINK, Epoch(epoch))


def refs(epochs: Iterable[int]) -> tuple[FinalKeyRef, ...]:
    return tuple(map(ref, epochs))


@dataclass
class Bench:
    """A gatherer at kme-a with its inbox, and what kme-b holds (all if None)."""

    clock: VirtualClock
    store: MemoryStore
    link: ScriptedLink
    gatherer: Gatherer
    held: set[FinalKeyRef] | None = None

    async def ingest(self, epochs: Iterable[int], n_bytes: int) -> None:
        for epoch in epochs:
            await self.store.ingest(BOB_KME, LINK, Epoch(epoch), [Secret(bytes(n_bytes))])

    def answer(self, asked: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        return [each for each in asked if self.held is None or each in self.held]


def on_a_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        store, link = MemoryStore(ALICE_KME), ScriptedLink()
        bench = Bench(clock, store, link, Gatherer(end_of(ALICE_KME, store, clock), link, LINK))
        link.on_held = bench.answer
        await test(bench)

    run_virtual(main)


def test_few_final_keys_are_gathered_for_a_while() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest([5], 600)
        assert await bench.gatherer.gather() == ()
        bench.clock.advance(1.9)
        await bench.ingest([4], 600)
        assert await bench.gatherer.gather() == ()
        bench.clock.advance(0.1)
        assert await bench.gatherer.gather() == refs([4, 5])

    on_a_bench(test)


def test_too_few_bytes_wait_for_ever() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest([1], 511)
        await bench.gatherer.gather()
        bench.clock.advance(1e6)
        assert await bench.gatherer.gather() == ()
        await bench.ingest([2], 1)
        assert await bench.gatherer.gather() == refs([1, 2])

    on_a_bench(test)


def test_a_full_block_does_not_wait() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(range(20), 8 * 1024)
        assert await bench.gatherer.gather() == refs(range(8))
        bench.gatherer.forget()
        assert await bench.gatherer.gather() == refs(range(8, 16))
        bench.gatherer.forget()
        assert await bench.gatherer.gather() == ()

    on_a_bench(test)


def test_a_large_final_key_does_not_wait_behind_too_small_ones() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest([1, 3, 5, 7, 9, 11], 100)
        await bench.ingest([2], MAX_BLOCK_BYTES)
        assert await bench.gatherer.gather() == refs([2])

    on_a_bench(test)


def test_a_block_is_formed_before_a_final_key_that_does_not_fit() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest([1], 600)
        await bench.ingest([2], MAX_BLOCK_BYTES - 599)
        assert await bench.gatherer.gather() == refs([1])
        bench.gatherer.forget()
        await bench.gatherer.gather()
        bench.clock.advance(2)
        assert ref(2) in await bench.gatherer.gather()

    on_a_bench(test)


def test_the_number_of_entries_is_bounded() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(range(MAX_ENTRIES + 5), 1)
        assert len(await bench.gatherer.gather()) == MAX_ENTRIES

    on_a_bench(test)


def test_only_what_the_peer_holds_is_taken_whatever_else_it_says() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(range(10), 600)
        bench.held = set(refs([3, 7]))
        bench.link.on_held = lambda asked: [*bench.answer(asked), ref(1000), ref(3)]
        await bench.gatherer.gather()
        bench.clock.advance(2)
        assert await bench.gatherer.gather() == refs([3, 7])

    on_a_bench(test)


def test_entries_that_the_peer_never_gets_block_nothing() -> None:
    async def test(bench: Bench) -> None:
        n_lost = 6000
        await bench.ingest(range(n_lost), 100)
        await bench.ingest([n_lost, n_lost + 1], 600)
        bench.held = set(refs([1000, n_lost, n_lost + 1]))
        found: tuple[FinalKeyRef, ...] = ()
        n_calls = 0
        while not found:
            n_asked = len(bench.link.asked)
            found = await bench.gatherer.gather()
            assert len(bench.link.asked) - n_asked <= 2048
            bench.clock.advance(1)
            n_calls += 1
        assert found == refs([1000, n_lost, n_lost + 1])
        assert n_calls <= 4

    on_a_bench(test)


def test_an_entry_that_the_peer_gets_late_is_found_on_the_next_round() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(range(5), 600)
        bench.held = set()
        for _ in range(3):
            assert await bench.gatherer.gather() == ()
        bench.held = set(refs([0]))
        await bench.gatherer.gather()
        bench.clock.advance(2)
        assert await bench.gatherer.gather() == refs([0])

    on_a_bench(test)


def test_what_was_gathered_is_not_asked_for_again() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(range(3), 100)
        for _ in range(5):
            await bench.gatherer.gather()
        assert bench.link.asked == list(refs(range(3)))

    on_a_bench(test)


def test_a_peer_that_does_not_say_what_it_holds_loses_nothing() -> None:
    async def test(bench: Bench) -> None:
        def refuse(_asked: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
            raise PeerUnavailableError("lost")

        await bench.ingest(range(3), 600)
        bench.link.on_held = refuse
        with pytest.raises(PeerUnavailableError):
            await bench.gatherer.gather()
        bench.link.on_held = bench.answer
        await bench.gatherer.gather()
        bench.clock.advance(2)
        assert await bench.gatherer.gather() == refs(range(3))

    on_a_bench(test)


def test_an_empty_inbox_asks_nothing() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.gatherer.gather() == ()
        assert bench.link.asked == []

    on_a_bench(test)
