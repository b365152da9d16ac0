"""A count that all share for a moment; the counting itself is in test_supply.py."""

import asyncio
from collections.abc import Awaitable, Callable

from kme.supply.supply import SupplyLimits
from simulation import VirtualClock
from supply_pair import ALICE, BOB, A, B, SupplyPair

SHARED_S = 1.0


def run(scenario: Callable[[SupplyPair, VirtualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = VirtualClock()
        pair = SupplyPair(clock, SupplyLimits(stock_shared_s=SHARED_S))
        await pair.blocks.add(A, 4096)
        await pair.open()
        await scenario(pair, clock)

    asyncio.run(main())


async def n_keys(pair: SupplyPair) -> int:
    return (await pair.a.stock(ALICE, BOB)).count_of(32)


def test_all_who_ask_within_a_moment_share_one_look_at_the_store() -> None:
    async def scenario(pair: SupplyPair, clock: VirtualClock) -> None:
        await asyncio.gather(*(pair.a.stock(ALICE, BOB) for _ in range(20)))
        clock.advance(SHARED_S / 2)
        await n_keys(pair)
        assert pair.scripts[A].count("stock") == pair.scripts[A].count("pairing") == 1
        await pair.blocks.add(A, 1024)
        n_before = await n_keys(pair)
        clock.advance(SHARED_S / 2)
        assert await n_keys(pair) == n_before + (1024 - 64) // 32
        assert pair.scripts[A].count("stock") == 2

    run(scenario)


def test_a_shared_count_knows_what_this_process_has_cut_since() -> None:
    async def scenario(pair: SupplyPair, _clock: VirtualClock) -> None:
        left = await n_keys(pair)
        while left:
            await pair.a.new_keys(ALICE, BOB, 1, 32)
            left -= 1
            # Never more than there is; what is on its way back may be missing.
            assert await n_keys(pair) <= left

    run(scenario)


def test_a_count_is_not_shared_across_a_clearing() -> None:
    async def scenario(pair: SupplyPair, _clock: VirtualClock) -> None:
        assert await n_keys(pair)
        await pair.stores[A].raise_floors(B, allocate=1)
        await pair.a.heed_floors()
        assert await n_keys(pair) == 0

    run(scenario)


def test_a_silent_peer_is_told_at_once() -> None:
    async def scenario(pair: SupplyPair, _clock: VirtualClock) -> None:
        assert (await pair.a.stock(ALICE, BOB)).is_peer_alive
        pair.liveness[A].is_alive = False
        assert not (await pair.a.stock(ALICE, BOB)).is_peer_alive

    run(scenario)
