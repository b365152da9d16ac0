import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from kme.errors import (
    IntegrityError,
    OutOfKeysError,
    PeerUnavailableError,
    StoreUnavailableError,
    UnavailableError,
)
from kme.ids import KmeId
from kme.store.memory import MemoryStore
from kme.store.records import KeyBlock, SourceClass
from kme.supply.allocator import MAX_OPEN_CLAIMS, Allocator, AllocatorPorts, Wish
from kme.supply.cache import BlockCache
from kme.supply.key_id import IdScope
from kme.supply.ports import Key
from simulation import VirtualClock
from supply_pair import (
    ALICE,
    BOB,
    A,
    B,
    BlockMaker,
    GranuleBook,
    SimulatedLiveness,
    StoreScript,
)

SCOPE = IdScope.on_link((ALICE, A), (BOB, B)).encoded()


def wish(n_keys: int = 1, n_bytes: int = 32) -> Wish:
    return Wish(SCOPE, n_keys, n_bytes)


class Bench:
    """An allocator of kme-a, its store and its peer's."""

    def __init__(self, cache_bytes: int = 1 << 20) -> None:
        self.script = StoreScript()
        self.store = MemoryStore(A, self.script)
        self.liveness = SimulatedLiveness(self.script.log)
        self.clock = VirtualClock()
        self.blocks = BlockMaker((self.store, MemoryStore(B)))
        self.cache = BlockCache(self.store, cache_bytes)
        self.book = GranuleBook()
        self.allocator = self.start("worker-1")

    def start(self, worker: str) -> Allocator:
        return Allocator(
            B, AllocatorPorts(self.store, self.liveness, self.cache, self.clock, worker)
        )

    async def take(self, n_keys: int = 1, n_bytes: int = 32) -> list[Key]:
        keys = await self.allocator.take(wish(n_keys, n_bytes))
        assert [len(key.key) for key in keys] == [n_bytes] * n_keys
        for key in keys:
            self.book.note(key.key_id)
        return keys

    async def idle(self) -> None:
        """Let everything in the background come to its end."""
        for _ in range(100):
            await asyncio.sleep(0)

    async def free_granules(self) -> int:
        """Return what is in the store and in memory together."""
        in_memory = sum(claim.room for claim in self.allocator.claims)
        return (await self.store.stock(B)).n_bytes // 8 + in_memory


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_keys_are_the_blocks_bytes_one_after_another() -> None:
    async def scenario() -> None:
        bench = Bench()
        block = await bench.blocks.add(A, 1024)
        keys = await bench.take(3, 20)
        assert [key.key_id.offset_granules for key in keys] == [8, 11, 14]
        assert [key.key.reveal() for key in keys] == [
            block[64:84],
            block[88:108],
            block[112:132],
        ]

    run(scenario())


def test_a_claim_is_used_only_after_a_heartbeat_that_began_after_its_write() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 1024)
        await bench.take()
        log = bench.script.log
        assert log[log.index("claim") :][:4] == [
            "claim",
            "block",
            "heartbeat begun",
            "heartbeat accepted",
        ]
        assert log.index("stock") < log.index("claim")

    run(scenario())


def test_many_requests_cost_few_claims() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 65536)
        for _ in range(1000):
            await bench.take()
            await asyncio.sleep(0)
        assert bench.script.count("claim") <= 12
        assert bench.script.count("block") == 1

    run(scenario())


def test_a_batch_of_a_hundred_keys_costs_one_claim_and_one_heartbeat() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 65536)
        await bench.take(100)
        assert bench.script.count("claim") == 1
        assert bench.script.count("heartbeat begun") == 1

    run(scenario())


def test_a_batch_reaches_over_several_blocks_with_one_heartbeat() -> None:
    async def scenario() -> None:
        bench = Bench()
        for _ in range(8):
            await bench.blocks.add(A, 512)
        keys = await bench.take(100)
        assert {key.key_id.block_number for key in keys} == set(range(1, 9))
        assert bench.script.count("heartbeat begun") == 1

    run(scenario())


def test_requests_seldom_wait_because_claims_are_fetched_ahead() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 8192)
        await bench.take()
        n_waits = 0
        for _ in range(200):
            await bench.idle()
            task = asyncio.ensure_future(bench.take())
            await asyncio.sleep(0)
            n_waits += not task.done()
            await task
        assert n_waits == 0
        assert bench.script.count("claim") > 3

    run(scenario())


def test_a_caller_that_goes_away_loses_no_claim() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        gate = bench.script.hold("after claim")
        caller = asyncio.create_task(bench.take())
        await bench.idle()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.set()
        await bench.idle()
        assert sum(claim.room for claim in bench.allocator.claims) == 56
        await bench.take(14)

    run(scenario())


def test_whoever_waits_after_a_caller_that_went_away_uses_its_claim() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        gate = bench.script.hold("after claim")
        first = asyncio.create_task(bench.take())
        await bench.idle()
        second = asyncio.create_task(bench.take())
        await bench.idle()
        first.cancel()
        await bench.idle()
        gate.set()
        assert len(await second) == 1
        assert bench.script.count("claim") == 1

    run(scenario())


def test_a_claim_of_unknown_outcome_is_never_used() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 1600)
        bench.script.fail("after claim")
        with pytest.raises(StoreUnavailableError):
            await bench.take()
        assert bench.allocator.claims == ()
        # It was written all the same, so its 64 granules are out of reach.
        keys = await bench.take(32)
        assert keys[0].key_id.offset_granules == 72
        with pytest.raises(OutOfKeysError):
            await bench.take()

    run(scenario())


def test_a_claim_whose_block_cannot_be_read_now_goes_back() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        bench.script.fail("before block")
        with pytest.raises(StoreUnavailableError):
            await bench.take()
        assert bench.allocator.claims == ()
        await bench.take(14)

    run(scenario())


class HollowStore(MemoryStore):
    """A store that lost the bytes of its blocks."""

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        return None


def test_a_claimed_block_that_is_missing_is_an_integrity_error() -> None:
    async def scenario() -> None:
        bench = Bench()
        hollow = HollowStore(A)
        await BlockMaker((hollow,)).add(A, 512)
        ports = AllocatorPorts(hollow, bench.liveness, BlockCache(hollow), bench.clock, "worker-1")
        with pytest.raises(IntegrityError, match="missing"):
            await Allocator(B, ports).take(wish())

    run(scenario())


def test_nothing_is_handed_out_while_the_peer_is_silent() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        bench.liveness.is_alive = False
        with pytest.raises(PeerUnavailableError):
            await bench.take()
        assert bench.script.count("claim") == 0
        bench.liveness.is_alive = True
        await bench.take(7)
        bench.liveness.is_alive = False
        with pytest.raises(PeerUnavailableError):
            await bench.take()

    run(scenario())


def test_a_claim_whose_heartbeat_failed_waits_for_the_next_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        bench.liveness.n_refused_heartbeats = 1
        with pytest.raises(PeerUnavailableError):
            await bench.take(14)
        assert [claim.room for claim in bench.allocator.claims] == [56]
        await bench.take(14)
        assert bench.script.count("claim") == 1
        assert bench.script.count("heartbeat begun") == 2

    run(scenario())


def test_what_was_dropped_is_used_no_more_and_goes_back() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.take(2)
        bench.allocator.drop_all()
        assert bench.allocator.claims == ()
        await bench.idle()
        assert (await bench.take(1))[0].key_id.offset_granules == 16
        await bench.allocator.close()
        assert await bench.free_granules() == 56 - 12

    run(scenario())


@pytest.mark.parametrize("step", ["before claim", "after claim", "before block"])
def test_a_claim_under_way_while_all_are_dropped_is_not_used(step: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        gate = bench.script.hold(step)
        taking = asyncio.create_task(bench.take())
        await bench.idle()
        bench.allocator.drop_all()
        gate.set()
        with pytest.raises(UnavailableError):
            await taking
        assert bench.allocator.claims == ()
        await bench.take()
        await bench.allocator.close()
        assert await bench.free_granules() == 56 - 4

    run(scenario())


def test_a_batch_that_cannot_be_met_takes_nothing() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.blocks.add(A, 512)
        for _ in range(3):
            with pytest.raises(OutOfKeysError):
                await bench.take(29)
        assert bench.script.count("claim") == 0
        await bench.take(5)
        with pytest.raises(OutOfKeysError):
            await bench.take(24)
        await bench.take(23)
        with pytest.raises(OutOfKeysError):
            await bench.take()

    run(scenario())


def test_what_another_worker_takes_meanwhile_fails_the_batch_and_not_the_claims() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.blocks.add(A, 512)
        gate = bench.script.hold("before claim")
        rival = asyncio.create_task(bench.store.claim(B, "worker-2", 8, 8))
        await bench.idle()
        batch = asyncio.create_task(bench.take(28))
        await bench.idle()
        gate.set()
        with pytest.raises(OutOfKeysError, match="ran out meanwhile"):
            await batch
        assert await rival is not None
        n_left = sum(claim.room for claim in bench.allocator.claims) // 4
        assert n_left == 26
        await bench.take(n_left)

    run(scenario())


def test_remainders_serve_smaller_keys() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)  # 56 granules to hand out
        await bench.take(1, 400)  # 50 of them
        with pytest.raises(OutOfKeysError):
            await bench.take(1, 64)
        await bench.take(3, 16)
        with pytest.raises(OutOfKeysError):
            await bench.take(1, 1)

    run(scenario())


def test_too_many_remainders_go_back_to_their_blocks() -> None:
    async def scenario() -> None:
        bench = Bench()
        n_blocks = 3 * MAX_OPEN_CLAIMS
        for _ in range(n_blocks):
            await bench.blocks.add(A, 64 + 8 * 12)
        for _ in range(n_blocks):
            await bench.take(1, 72)  # 9 of 12 granules; 3 are left over
            await bench.idle()
        assert len(bench.allocator.claims) <= MAX_OPEN_CLAIMS
        with pytest.raises(OutOfKeysError):
            await bench.take(1, 72)
        assert await bench.free_granules() == 3 * n_blocks
        await bench.take(n_blocks, 24)

    run(scenario())


def test_used_up_claims_are_closed_in_the_store() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.blocks.add(A, 512)
        for _ in range(28):
            await bench.take()
            await bench.idle()
        with pytest.raises(OutOfKeysError):
            await bench.take()
        assert bench.allocator.claims == ()
        assert await bench.store.close_claims() == 0

    run(scenario())


def test_closing_gives_back_every_untouched_granule() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 4096)
        for n_bytes in (32, 8, 100, 32):
            await bench.take(5, n_bytes)
            await bench.idle()
        n_used = 5 * (4 + 1 + 13 + 4)
        await bench.allocator.close()
        assert bench.allocator.claims == ()
        assert await bench.free_granules() == (4096 - 64) // 8 - n_used
        assert await bench.store.close_claims() == 0
        bench.allocator = bench.start("worker-2")
        await bench.take((504 - n_used) // 4)

    run(scenario())


def test_closing_waits_for_what_is_under_way_and_refuses_what_comes_later() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        gate = bench.script.hold("after claim")
        under_way = asyncio.create_task(bench.take())
        await bench.idle()
        queued = asyncio.create_task(bench.take())
        closing = asyncio.create_task(bench.allocator.close())
        await bench.idle()
        assert not closing.done()
        gate.set()
        results = await asyncio.gather(under_way, queued, return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)
        await closing
        with pytest.raises(UnavailableError, match="stopping"):
            await bench.take()
        assert await bench.free_granules() == 56

    run(scenario())


def test_closing_waits_for_a_fetch_that_nobody_waits_for() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 4096)
        await bench.take()
        await bench.idle()
        gate = bench.script.hold("after claim")
        await bench.take(14)  # leaves so little that the next claim is fetched ahead
        await bench.idle()
        closing = asyncio.create_task(bench.allocator.close())
        await bench.idle()
        assert not closing.done()
        gate.set()
        await closing
        assert await bench.free_granules() == 504 - 60

    run(scenario())


def test_closing_without_the_store_burns_what_it_cannot_give_back() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.take()
        bench.script.fail("before give_back", times=100)
        await bench.allocator.close()
        assert bench.allocator.claims == ()
        bench.script.fail("before give_back", times=0)
        assert await bench.store.close_claims("worker-1") == 1
        assert await bench.free_granules() == 0

    run(scenario())


def test_what_could_not_be_given_back_is_given_back_later() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        await bench.take()
        bench.allocator._retire(bench.allocator._open)
        bench.allocator._open = []
        bench.script.fail("before give_back")
        with pytest.raises(StoreUnavailableError):
            await bench.take()
        await bench.take()
        await bench.allocator.close()
        assert await bench.store.close_claims() == 0, "a claim stayed open that nobody knows of"

    run(scenario())


def test_nothing_is_claimed_ahead_for_a_while_after_a_fruitless_try() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        for _ in range(10):
            await bench.take()
            await bench.idle()
        assert bench.script.count("claim") == 2  # the one that succeeded, and one in vain
        bench.clock.advance(1.0)
        await bench.take()
        await bench.idle()
        assert bench.script.count("claim") == 3

    run(scenario())


def test_an_error_while_fetching_ahead_reaches_no_request_that_can_be_served() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 4096)
        await bench.take()
        await bench.idle()
        n_claims = bench.script.count("claim")
        bench.script.fail("before claim", times=1)
        for _ in range(14):
            await bench.take()
            await bench.idle()
        assert bench.script.count("claim") == n_claims + 1
        bench.clock.advance(1.0)
        await bench.take()
        await bench.idle()
        assert bench.script.count("claim") == n_claims + 2

    run(scenario())


def test_refused_heartbeats_do_not_pile_up_claims() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 8192)
        await bench.take(10)
        bench.liveness.n_refused_heartbeats = 100
        for _ in range(5):
            bench.clock.advance(1.0)
            await bench.take()
            await bench.idle()
        assert bench.script.count("claim") == 2
        assert len(bench.allocator.claims) == 2

    run(scenario())


def test_small_blocks_are_claimed_ahead_a_few_at_a_time() -> None:
    async def scenario() -> None:
        bench = Bench()
        for _ in range(40):
            await bench.blocks.add(A, 64 + 32)
        await bench.take()
        await bench.idle()
        assert bench.script.count("claim") == 1 + 4
        assert bench.script.count("heartbeat begun") == 2

    run(scenario())


@pytest.mark.parametrize("seed", range(25))
def test_tasks_at_the_same_time_never_share_a_granule(seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        bench = Bench()

        async def shuffle(_: str = "") -> None:
            for _turn in range(rng.randrange(4)):
                await asyncio.sleep(0)

        bench.store._pause = shuffle
        bench.liveness._pause = shuffle
        for _ in range(30):
            await bench.blocks.add(A, rng.randrange(100, 2000))
        n_before = await bench.free_granules()
        n_taken = 0

        async def client() -> None:
            nonlocal n_taken
            for _ in range(20):
                n_keys, n_bytes = rng.choice([1, 1, 1, 10]), rng.choice([8, 32, 33, 100])
                try:
                    keys = await bench.take(n_keys, n_bytes)
                except OutOfKeysError:
                    continue
                n_taken += sum(key.key_id.n_granules for key in keys)
                await shuffle()

        await asyncio.gather(*(client() for _ in range(8)))
        await bench.allocator.close()
        n_after = await bench.free_granules()
        assert n_taken == len(bench.book.owners)
        # What isn't free any more was taken, or burnt between two claims of one block.
        assert n_after <= n_before - n_taken
        assert await bench.store.close_claims() == 0

    run(scenario())


def test_keys_come_from_blocks_of_their_own_kme_that_the_peer_has_settled() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(B, 512)
        await bench.blocks.add(A, 512, SourceClass.RANDOM, is_settled=False)
        with pytest.raises(OutOfKeysError):
            await bench.take()
        await bench.store.raise_peer_settled(B, 2)
        assert {key.key_id.block_number for key in await bench.take(14)} == {2}

    run(scenario())


def test_secrets_in_memory_are_wiped_when_their_claim_ends() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.blocks.add(A, 512)
        keys = await bench.take(7)
        claims = bench.allocator.claims
        await bench.allocator.close()
        assert all("wiped" in repr(claim._key) for claim in claims)
        assert all(len(key.key.reveal()) == 32 for key in keys)

    run(scenario())
