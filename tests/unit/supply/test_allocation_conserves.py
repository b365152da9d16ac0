"""Whatever is asked for, closed or killed: no granule is in two places, and none gets lost."""

from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import OutOfKeysError
from kme.store.records import RESERVED_GRANULES
from kme.supply.ports import Key
from kme.supply.supply import LinkSupply
from simulation import VirtualClock, run_virtual
from supply_pair import ALICE, BOB, A, B, SupplyPair

Granules: TypeAlias = set[tuple[int, int]]
Steps: TypeAlias = list[tuple[str, int, int, int]]

_BLOCKS = st.lists(st.integers(64, 1500), min_size=1, max_size=5)
_TAKE = st.tuples(st.just("take"), st.integers(0, 2), st.integers(1, 12), st.integers(1, 300))
_END = st.tuples(st.sampled_from(["close", "kill"]), st.integers(0, 2), st.just(0), st.just(0))
_STEPS = st.lists(st.one_of(_TAKE, _TAKE, _TAKE, _END), max_size=25)


def granules_of(keys: list[Key]) -> list[tuple[int, int]]:
    return [
        (key.key_id.block_number, granule)
        for key in keys
        for granule in range(
            key.key_id.offset_granules, key.key_id.offset_granules + key.key_id.n_granules
        )
    ]


class Scene:
    """Three workers of one KME on one store, and all that masters were given."""

    def __init__(self, clock: VirtualClock) -> None:
        self.pair = SupplyPair(clock)
        self.n_started = 0
        self.given: Granules = set()
        self.everything: Granules = set()

    async def begin(self, sizes: list[int]) -> None:
        for number, n_bytes in enumerate(sizes, start=1):
            await self.pair.blocks.add(A, n_bytes)
            self.everything |= {(number, g) for g in range(RESERVED_GRANULES, n_bytes // 8)}
        self.workers = [await self.worker() for _ in range(3)]

    async def worker(self) -> LinkSupply:
        self.n_started += 1
        supply = self.pair.start(A, f"worker-{self.n_started}")
        await supply.open(closes_lapsed=False)
        return supply

    async def do(self, step: tuple[str, int, int, int]) -> None:
        what, who, n_keys, n_bytes = step
        supply = self.workers[who]
        if what == "take":
            try:
                keys = await supply.new_keys(ALICE, BOB, n_keys, n_bytes)
            except OutOfKeysError:
                return
            fresh = granules_of(keys)
            assert len(set(fresh)) == len(fresh)
            assert not self.given & set(fresh), "a granule was given twice"
            self.given |= set(fresh)
            return
        await supply._allocators[B].settle()
        if what == "close":
            await supply.close()
        else:
            await self.pair.stores[A].close_claims(supply._worker)
        self.workers[who] = await self.worker()

    async def parts(self) -> tuple[Granules, Granules]:
        """Return what the store has free, and what workers have claimed and not used."""
        for supply in self.workers:
            await supply._allocators[B].settle()
        own = self.pair.stores[A]._state.pair(B).own
        free = {
            (number, granule)
            for number in own.numbers
            for granule in range(own.marks[number], own.sizes[number])
        }
        claimed: Granules = set()
        for supply in self.workers:
            for claim in supply._allocators[B].claims:
                reserved = claim.claim.reserved
                rest = {(reserved.block_number, g) for g in range(claim.mark, reserved.stop)}
                assert not claimed & rest, "two claims overlap"
                claimed |= rest
        return free, claimed


async def _live(clock: VirtualClock, sizes: list[int], steps: Steps) -> None:
    scene = Scene(clock)
    await scene.begin(sizes)
    for step in steps:
        await scene.do(step)
        free, claimed = await scene.parts()
        assert not free & claimed
        assert not (free | claimed) & scene.given
        assert free | claimed | scene.given <= scene.everything
        stock = await scene.pair.stores[A].stock(B)
        assert stock.n_bytes == 8 * len(free)
    for supply in scene.workers:
        await supply.close()


@given(_BLOCKS, _STEPS)
@settings(max_examples=60)
def test_no_granule_is_in_two_places(sizes: list[int], steps: Steps) -> None:
    run_virtual(lambda clock: _live(clock, sizes, steps))


@given(_BLOCKS, st.lists(st.tuples(st.integers(1, 12), st.integers(1, 300)), max_size=20))
@settings(max_examples=60)
def test_one_worker_loses_nothing_but_tails_with_a_claim_behind_them(
    sizes: list[int], wishes: list[tuple[int, int]]
) -> None:
    async def main(clock: VirtualClock) -> None:
        scene = Scene(clock)
        await scene.begin(sizes)
        for n_keys, n_bytes in wishes:
            await scene.do(("take", 0, n_keys, n_bytes))
        free, claimed = await scene.parts()
        waiting = {
            (claim.reserved.block_number, granule)
            for claim, untouched_from in scene.workers[0]._allocators[B]._retired
            for granule in range(untouched_from, claim.reserved.stop)
        }
        burnt = scene.everything - free - claimed - scene.given - waiting
        assert all((number, g + 1) in scene.everything - free for number, g in burnt)
        await scene.workers[0].close()
        assert await scene.pair.stores[A].close_claims() == 0

    run_virtual(main)
