"""Keys for two SAEs of one KME: random, made on demand, given once like all others."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kme.errors import (
    KeyNotFoundError,
    NotEntitledError,
    OutOfKeysError,
    RequestError,
    StoreUnavailableError,
)
from kme.ids import KeyId, SaeId
from kme.store.memory import MemoryStore
from kme.store.records import SourceClass
from kme.supply import local
from kme.supply.directory import SaeDirectory
from kme.supply.supply import MAX_KEYS_PER_CALL, LinkSupply, SupplyLimits
from simulation import VirtualClock
from supply_pair import ALICE, CAROL, A, B, GranuleBook, SimulatedLiveness, StoreScript

DORA = SaeId("dora")
LIMITS = SupplyLimits(local_pairs=True, local_lifetime_s=60)


class Lone:
    """A KME with three SAEs and a peer that was never heard."""

    def __init__(self, limits: SupplyLimits = LIMITS) -> None:
        self.script = StoreScript()
        self.store = MemoryStore(A, self.script)
        self.clock = VirtualClock()
        self.supply = self.start("worker-1", limits)

    def start(self, worker: str, limits: SupplyLimits = LIMITS) -> LinkSupply:
        directory = SaeDirectory(A, (B,), [(ALICE, A), (CAROL, A), (DORA, A)])
        liveness = SimulatedLiveness()
        liveness.is_alive = liveness.was_heard = False
        return LinkSupply(directory, self.store, liveness, self.clock, worker, limits)


def run(scenario: Callable[[Lone], Awaitable[None]], limits: SupplyLimits = LIMITS) -> None:
    async def main() -> None:
        lone = Lone(limits)
        await lone.supply.open()
        await scenario(lone)

    asyncio.run(main())


@pytest.mark.parametrize("slave", [CAROL, ALICE])
def test_both_saes_get_the_same_keys_once_whatever_the_peers_do(slave: SaeId) -> None:
    async def scenario(lone: Lone) -> None:
        keys = await lone.supply.new_keys(ALICE, slave, 5, 33)
        ids = [key.key_id for key in keys]
        with pytest.raises(NotEntitledError):
            await lone.supply.keys_by_id(ALICE, DORA, ids)
        with pytest.raises(KeyNotFoundError):
            await lone.supply.keys_by_id(CAROL, slave, ids)
        assert await lone.supply.keys_by_id(ALICE, slave, ids) == keys
        with pytest.raises(KeyNotFoundError):
            await lone.supply.keys_by_id(ALICE, slave, ids[:1])

    run(scenario)


def test_status_says_that_the_keys_are_random_and_what_it_promises_can_be_had() -> None:
    async def scenario(lone: Lone) -> None:
        stock = await lone.supply.stock(ALICE, CAROL)
        assert stock.target == A
        assert stock.source_classes == {SourceClass.RANDOM}
        assert stock.is_peer_alive
        assert not stock.is_quantum
        for n_bytes in (1, 32, stock.max_key_bytes):
            n_keys = min(stock.count_of(n_bytes), MAX_KEYS_PER_CALL)
            assert len(await lone.supply.new_keys(ALICE, CAROL, n_keys, n_bytes)) == n_keys
        assert stock.max_key_bytes == KeyId.MAX_BYTES

    run(scenario)


def test_without_the_setting_it_is_refused_and_the_setting_is_named() -> None:
    async def scenario(lone: Lone) -> None:
        for ask in (lone.supply.new_keys(ALICE, CAROL, 1, 32), lone.supply.stock(ALICE, CAROL)):
            with pytest.raises(RequestError, match=r"no quantum keys.*offer\.local_pairs"):
                await ask
        with pytest.raises(KeyNotFoundError):
            await lone.supply.keys_by_id(ALICE, CAROL, [KeyId(1, 8, 32, 5)])
        assert (await lone.store.pairing(A)).highest == 0

    run(scenario, SupplyLimits())


def test_requests_at_once_share_what_is_made() -> None:
    async def scenario(lone: Lone) -> None:
        book = GranuleBook()
        asked = [lone.supply.new_keys(ALICE, CAROL, 20, 64) for _ in range(40)]
        for keys in await asyncio.gather(*asked):
            for key in keys:
                book.note(key.key_id)
        assert (await lone.store.pairing(A)).highest <= 3

    run(scenario)


def test_the_largest_request_is_met() -> None:
    async def scenario(lone: Lone) -> None:
        keys = await lone.supply.new_keys(ALICE, CAROL, 300, 8192)
        assert len({key.key.reveal() for key in keys}) == 300

    run(scenario)


def test_what_nobody_draws_does_not_fill_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_LOCAL_BLOCKS", 4)

    async def scenario(lone: Lone) -> None:
        for _ in range(4):
            await lone.supply.new_keys(ALICE, CAROL, 7, 8192)
        with pytest.raises(OutOfKeysError, match="wait to be drawn"):
            await lone.supply.new_keys(ALICE, CAROL, 7, 8192)
        del lone.store._state.pairs[A].blocks[2]  # as if it had been used up
        await lone.supply.new_keys(ALICE, CAROL, 7, 8192)
        with pytest.raises(OutOfKeysError, match="wait to be drawn"):
            await lone.supply.new_keys(ALICE, CAROL, 7, 8192)

    run(scenario)


def test_grants_of_such_keys_do_not_fill_the_store_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "MAX_LOCAL_GRANT_BYTES", 10 * (32 + 512))

    async def scenario(lone: Lone) -> None:
        keys = await lone.supply.new_keys(ALICE, ALICE, 4, 32, [CAROL, DORA])
        for slave in (CAROL, DORA, ALICE):
            ids = [key.key_id for key in keys]
            assert await lone.supply.keys_by_id(ALICE, slave, ids) == keys
        with pytest.raises(OutOfKeysError, match="kept for further slaves"):
            await lone.supply.new_keys(ALICE, ALICE, 3, 32, [CAROL])
        await lone.supply.new_keys(ALICE, ALICE, 2, 32, [CAROL])
        lone.clock.advance(LIMITS.local_lifetime_s)
        await lone.supply.new_keys(ALICE, ALICE, 5, 32, [CAROL, DORA])

    run(scenario)


def test_a_new_process_cuts_nothing_from_earlier_blocks_and_their_keys_stay() -> None:
    async def scenario(lone: Lone) -> None:
        (first,) = await lone.supply.new_keys(ALICE, CAROL, 1, 32)
        lone.store = lone.store.reopened()
        again = lone.start("worker-2")
        await again.open()
        (second,) = await again.new_keys(ALICE, CAROL, 1, 32)
        assert second.key_id.block_number > first.key_id.block_number
        assert await again.keys_by_id(ALICE, CAROL, [second.key_id, first.key_id]) == [
            second,
            first,
        ]

    run(scenario)


def test_two_workers_that_make_blocks_at_once_both_serve() -> None:
    async def scenario(lone: Lone) -> None:
        async def take_turns() -> None:
            await asyncio.sleep(0)

        lone.store._pause = lambda _: take_turns()
        other = lone.start("worker-2")
        await other.open(closes_lapsed=False)
        book = GranuleBook()
        for _ in range(5):
            asked = [
                supply.new_keys(ALICE, CAROL, 9, 8000)
                for supply in (lone.supply, other, lone.supply, other)
            ]
            for keys in await asyncio.gather(*asked):
                for key in keys:
                    book.note(key.key_id)
                drawn = await other.keys_by_id(ALICE, CAROL, [key.key_id for key in keys])
                assert drawn == keys
        await lone.supply.heed_floors()

    run(scenario)


@pytest.mark.parametrize("step", ["before settle", "after settle", "before raise_peer_settled"])
def test_a_store_that_fails_while_a_block_is_made_gives_no_key_and_works_again(step: str) -> None:
    async def scenario(lone: Lone) -> None:
        lone.script.fail(step)
        with pytest.raises(StoreUnavailableError):
            await lone.supply.new_keys(ALICE, CAROL, 1, 32)
        assert len(await lone.supply.new_keys(ALICE, CAROL, 1, 32)) == 1

    run(scenario)
