import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kme.errors import (
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RequestError,
    StoreUnavailableError,
    UnavailableError,
)
from kme.ids import KeyId, SaeId
from kme.store.records import SourceClass
from kme.supply.ports import KeySupply
from kme.supply.reserves import Reserve
from kme.supply.supply import MAX_KEYS_PER_CALL, SupplyLimits
from supply_pair import ALICE, BOB, CAROL, EVE, A, B, SupplyPair

NOBODY = SaeId("nobody")
Scenario = Callable[[SupplyPair], Awaitable[None]]


def run(scenario: Scenario, *blocks: tuple[Any, int]) -> None:
    """Run a scenario with two open supplies and some blocks, given as (owner, bytes)."""

    async def main() -> None:
        pair = SupplyPair()
        for owner, n_bytes in blocks:
            await pair.blocks.add(owner, n_bytes)
        await pair.open()
        await scenario(pair)

    asyncio.run(main())


def test_both_saes_get_the_same_keys_in_both_directions() -> None:
    async def scenario(pair: SupplyPair) -> None:
        sides: list[tuple[KeySupply, SaeId, KeySupply, SaeId]] = [
            (pair.a, ALICE, pair.b, BOB),
            (pair.b, BOB, pair.a, ALICE),
        ]
        for mine, master, theirs, slave in sides:
            given = await mine.new_keys(master, slave, 5, 33)
            ids = [key.key_id for key in reversed(given)]
            drawn = await theirs.keys_by_id(master, slave, ids)
            assert drawn == given[::-1]
            with pytest.raises(KeyNotFoundError):
                await theirs.keys_by_id(master, slave, ids[:1])

    run(scenario, (A, 1024), (B, 1024))


def test_a_key_may_be_drawn_as_soon_as_its_master_has_it() -> None:
    async def scenario(pair: SupplyPair) -> None:
        for _ in range(14):
            (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
            assert await pair.b.keys_by_id(ALICE, BOB, [key.key_id]) == [key]
        with pytest.raises(OutOfKeysError):
            await pair.a.new_keys(ALICE, BOB, 1, 32)

    run(scenario, (A, 512))


def test_only_the_slave_that_was_named_gets_the_key() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        with pytest.raises(NotEntitledError):
            await pair.b.keys_by_id(ALICE, EVE, [key.key_id])
        with pytest.raises(KeyNotFoundError):
            await pair.b.keys_by_id(CAROL, BOB, [key.key_id])
        with pytest.raises(KeyNotFoundError):  # a stranger at the master's own KME
            await pair.a.keys_by_id(ALICE, CAROL, [key.key_id])
        with pytest.raises(KeyNotFoundError):  # as if bob had been the master
            await pair.a.keys_by_id(BOB, ALICE, [key.key_id])
        assert await pair.b.keys_by_id(ALICE, BOB, [key.key_id]) == [key]

    run(scenario, (A, 512))


@pytest.mark.parametrize(
    ("master", "slave", "says"),
    [
        (NOBODY, BOB, "SAE 'nobody' is not registered at this KME"),
        (ALICE, NOBODY, "SAE 'nobody' is not registered at this KME or its peers"),
        (BOB, ALICE, "SAE 'bob' is not registered at this KME"),
        (ALICE, CAROL, "two SAEs of the same KME are not offered.*offer.local_pairs"),
        (ALICE, ALICE, "two SAEs of the same KME are not offered"),
    ],
)
def test_pairs_that_are_not_served_are_refused(master: SaeId, slave: SaeId, says: str) -> None:
    async def scenario(pair: SupplyPair) -> None:
        with pytest.raises(RequestError, match=says):
            await pair.a.new_keys(master, slave, 1, 32)
        with pytest.raises(RequestError, match=says):
            await pair.a.stock(master, slave)

    run(scenario, (A, 512))


@pytest.mark.parametrize(
    ("n_keys", "n_bytes"),
    [(0, 32), (-1, 32), (MAX_KEYS_PER_CALL + 1, 32), (1, 0), (1, -8), (1, 8193), (1, 10**9)],
)
def test_amounts_out_of_range_are_refused(n_keys: int, n_bytes: int) -> None:
    async def scenario(pair: SupplyPair) -> None:
        with pytest.raises(RequestError):
            await pair.a.new_keys(ALICE, BOB, n_keys, n_bytes)
        assert pair.scripts[A].count("claim") == 0

    run(scenario, (A, 512))


@pytest.mark.parametrize(
    ("master", "caller", "n_ids", "says"),
    [
        (ALICE, BOB, 0, "1 to 4096 keys"),
        (ALICE, BOB, MAX_KEYS_PER_CALL + 1, "1 to 4096 keys"),
        (NOBODY, BOB, 1, "SAE 'nobody' is not registered"),
        (ALICE, NOBODY, 1, "SAE 'nobody' is not registered"),
        (ALICE, CAROL, 1, "SAE 'carol' is not registered at this KME"),
    ],
)
def test_draws_that_make_no_sense_are_refused(
    master: SaeId, caller: SaeId, n_ids: int, says: str
) -> None:
    async def scenario(pair: SupplyPair) -> None:
        ids = [KeyId(1, 8, 32, tag) for tag in range(n_ids)]
        with pytest.raises(RequestError, match=says):
            await pair.b.keys_by_id(master, caller, ids)
        assert pair.scripts[B].count("block") == 0

    run(scenario, (A, 512))


def test_an_id_that_is_listed_twice_is_refused_and_its_key_kept() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        with pytest.raises(RequestError, match="listed twice"):
            await pair.b.keys_by_id(ALICE, BOB, [key.key_id, key.key_id])
        assert await pair.b.keys_by_id(ALICE, BOB, [key.key_id]) == [key]

    run(scenario, (A, 512))


def test_new_keys_need_a_peer_that_is_alive_and_draws_do_not() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        pair.liveness[A].is_alive = pair.liveness[B].is_alive = False
        with pytest.raises(PeerUnavailableError):
            await pair.a.new_keys(ALICE, BOB, 1, 32)
        assert await pair.b.keys_by_id(ALICE, BOB, [key.key_id]) == [key]

    run(scenario, (A, 512))


def test_draws_wait_for_one_heartbeat_after_the_start() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        pair.liveness[B].was_heard = False
        with pytest.raises(PeerUnavailableError):
            await pair.b.keys_by_id(ALICE, BOB, [key.key_id])
        assert pair.scripts[B].count("draw") == 0
        pair.liveness[B].was_heard = True
        assert await pair.b.keys_by_id(ALICE, BOB, [key.key_id]) == [key]

    run(scenario, (A, 512))


def test_stock_is_what_can_be_had_whoever_holds_it() -> None:
    async def scenario(pair: SupplyPair) -> None:
        fresh = await pair.a.stock(ALICE, BOB)
        assert fresh.target == B
        assert fresh.is_peer_alive
        assert fresh.is_quantum
        assert fresh.free_bytes == 2 * (1024 - 64)
        assert fresh.max_key_bytes == 1024 - 64
        assert fresh.count_of(32) == 60
        await pair.a.new_keys(ALICE, BOB, 3, 32)
        await asyncio.sleep(0)
        later = await pair.a.stock(ALICE, BOB)
        assert later.count_of(32) == 57
        assert later.free_bytes == fresh.free_bytes - 96
        assert (await pair.b.stock(BOB, ALICE)).free_bytes == 0
        await pair.a.new_keys(ALICE, BOB, 57, 32)
        with pytest.raises(OutOfKeysError):
            await pair.a.new_keys(ALICE, BOB, 1, 32)

    run(scenario, (A, 1024), (A, 1024))


def test_stock_promises_nothing_while_the_peer_is_silent() -> None:
    async def scenario(pair: SupplyPair) -> None:
        pair.liveness[A].is_alive = False
        stock = await pair.a.stock(ALICE, BOB)
        assert not stock.is_peer_alive
        assert stock.count_of(8) == 0
        assert stock.free_bytes == 448

    run(scenario, (A, 512))


def test_what_is_claimed_while_the_stock_is_counted_counts_once() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        await asyncio.sleep(0)
        gate = pair.scripts[A].hold("after stock")
        asked = asyncio.create_task(pair.a.stock(ALICE, BOB))
        await asyncio.sleep(0.01)  # the store was read; now more is claimed
        n_claims = pair.scripts[A].count("claim")
        await pair.a.new_keys(ALICE, BOB, 15, 32)
        await asyncio.sleep(0.01)
        assert pair.scripts[A].count("claim") > n_claims
        gate.set()
        assert (await asked).free_bytes <= 1024 - 64 - 16 * 32

    run(scenario, (A, 1024))


def test_what_is_given_back_while_the_stock_is_counted_counts_once() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        await asyncio.sleep(0)
        gate = pair.scripts[A].hold("before stock")
        asked = asyncio.create_task(pair.a.stock(ALICE, BOB))
        await asyncio.sleep(0.01)  # what is in memory was counted; now it goes back
        await pair.a.close()
        gate.set()
        assert (await asked).free_bytes == 1024 - 64 - 32

    run(scenario, (A, 1024))


def test_stock_waits_for_claims_on_their_way_while_the_peer_is_alive() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        await asyncio.sleep(0)
        gate = pair.scripts[A].hold("after claim")
        await pair.a.new_keys(ALICE, BOB, 14, 32)  # and the next claim is on its way
        asked = asyncio.create_task(pair.a.stock(ALICE, BOB))
        await asyncio.sleep(0.01)
        assert not asked.done()
        pair.liveness[A].is_alive = False
        n_free = 2048 - 64 - 15 * 32
        assert (await pair.a.stock(ALICE, BOB)).free_bytes < n_free
        gate.set()
        assert (await asked).free_bytes == n_free

    run(scenario, (A, 2048))


def test_no_stock_is_no_error() -> None:
    async def scenario(pair: SupplyPair) -> None:
        stock = await pair.a.stock(ALICE, BOB)
        assert (stock.free_bytes, stock.max_key_bytes, stock.count_of(8)) == (0, 0, 0)
        assert stock.source_classes == frozenset()
        assert not stock.is_quantum

    run(scenario)


def test_random_bits_are_not_called_quantum() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.blocks.add(A, 512, SourceClass.RANDOM)
        assert not (await pair.a.stock(ALICE, BOB)).is_quantum
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        await pair.blocks.add(A, 512, SourceClass.QKD)
        mixed = await pair.a.stock(ALICE, BOB)
        assert mixed.source_classes == set(SourceClass)
        assert not mixed.is_quantum

    run(scenario)


def test_a_new_life_closes_the_claims_of_the_old_one_and_keeps_its_promises() -> None:
    async def scenario(pair: SupplyPair) -> None:
        given = await pair.a.new_keys(ALICE, BOB, 3, 32)
        # The process dies here; what it had claimed (64 granules) is lost with it.
        pair.a = pair.start(A, "worker-2")
        await pair.a.open()
        assert await pair.stores[A].close_claims() == 0
        later = await pair.a.new_keys(ALICE, BOB, 1, 32)
        assert later[0].key_id.offset_granules == 8 + 64
        ids = [key.key_id for key in given + later]
        assert await pair.b.keys_by_id(ALICE, BOB, ids) == given + later

    run(scenario, (A, 1024))


def test_what_was_claimed_in_cleared_blocks_is_used_no_more() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        await pair.stores[A].raise_floors(B, allocate=1)
        await pair.a.new_keys(ALICE, BOB, 1, 32)  # out of a claim, for nobody has told it
        await pair.a.heed_floors()
        with pytest.raises(OutOfKeysError):
            await pair.a.new_keys(ALICE, BOB, 1, 32)
        await pair.blocks.add(A, 512)
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        assert key.key_id.block_number == 2
        await pair.a.heed_floors()
        await pair.a.new_keys(ALICE, BOB, 13, 32)

    run(scenario, (A, 1024))


def test_nothing_is_served_before_open_and_after_close() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        await pair.a.close()
        calls: tuple[Callable[[KeySupply], Awaitable[object]], ...] = (
            lambda supply: supply.new_keys(ALICE, BOB, 1, 32),
            lambda supply: supply.keys_by_id(BOB, ALICE, [key.key_id]),
            lambda supply: supply.stock(ALICE, BOB),
        )
        for supply in (pair.a, pair.start(A, "worker-2")):
            for call in calls:
                with pytest.raises(UnavailableError, match="starting or stopping"):
                    await call(supply)

    run(scenario, (A, 512))


def test_it_does_not_open_while_the_store_is_away() -> None:
    async def scenario(pair: SupplyPair) -> None:
        pair.a = pair.start(A, "worker-2")
        pair.scripts[A].fail("before close_claims")
        with pytest.raises(StoreUnavailableError):
            await pair.a.open()
        with pytest.raises(UnavailableError):
            await pair.a.new_keys(ALICE, BOB, 1, 32)
        await pair.a.open()
        await pair.a.new_keys(ALICE, BOB, 1, 32)

    run(scenario, (A, 512))


def test_closing_gives_everything_back_and_wipes_memory() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 3, 32)
        await pair.a.close()
        assert (await pair.stores[A].stock(B)).n_bytes == 1024 - 64 - 96
        assert await pair.stores[A].close_claims() == 0
        assert pair.a._cache.n_bytes == 0

    run(scenario, (A, 1024))


def test_what_was_never_used_can_be_closed() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.close()
        assert (await pair.stores[A].stock(B)).n_bytes == 1024 - 64

    run(scenario, (A, 1024))


def test_closing_ends_even_if_the_store_is_away() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 3, 32)
        pair.scripts[A].fail("before give_back", times=10)
        pair.scripts[A].fail("before close_claims", times=10)
        await pair.a.close()
        assert pair.a._cache.n_bytes == 0

    run(scenario, (A, 1024))


def test_errors_never_show_a_key() -> None:
    async def scenario(pair: SupplyPair) -> None:
        (key,) = await pair.a.new_keys(ALICE, BOB, 1, 32)
        for call in (
            pair.b.keys_by_id(ALICE, EVE, [key.key_id]),
            pair.a.new_keys(ALICE, BOB, 4000, 32),
            pair.a.keys_by_id(BOB, ALICE, [key.key_id]),
        ):
            with pytest.raises(KmeError) as refusal:
                await call
            shown = f"{refusal.value!r} {refusal.value.diagnostics()}"
            assert key.key.reveal().hex() not in shown
            assert key.key.to_base64() not in shown

    run(scenario, (A, 1024))


def test_a_worker_that_is_not_the_only_one_leaves_the_others_claims_alone() -> None:
    async def scenario(pair: SupplyPair) -> None:
        await pair.a.new_keys(ALICE, BOB, 1, 32)
        store = pair.a._store
        await pair.a.open(closes_lapsed=False)
        assert await store.close_claims() == 1, "its own claim was still open"

    run(scenario, (A, 1024))


def test_a_greedy_sae_leaves_what_is_kept_for_another_and_status_tells_so() -> None:
    async def main() -> None:
        pair = SupplyPair(limits=SupplyLimits(reserves=[Reserve(ALICE, BOB, 256)]))
        await pair.blocks.add(A, 64 + 1024)
        await pair.open()
        assert (await pair.a.stock(CAROL, BOB)).count_of(32) == 24
        assert (await pair.a.stock(ALICE, BOB)).count_of(32) == 32
        many = await asyncio.gather(
            *(pair.a.new_keys(CAROL, BOB, 1, 32) for _ in range(40)), return_exceptions=True
        )
        assert sum(isinstance(one, list) for one in many) == 24
        with pytest.raises(OutOfKeysError, match="kept for other SAEs"):
            await pair.a.new_keys(CAROL, BOB, 1, 8)
        assert len(await pair.a.new_keys(ALICE, BOB, 8, 32)) == 8
        with pytest.raises(OutOfKeysError):
            await pair.a.new_keys(ALICE, BOB, 1, 8)

    asyncio.run(main())
