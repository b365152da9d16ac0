"""What every store promises of the end of keys: frontiers, used-up blocks, expiry.

The rest of the suite is `store_contract`; a backend's test module derives from
`StoreContract` there and from `EndOfKeysContract` here.
"""

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kme.errors import InputError, KeyNotFoundError
from kme.ids import Epoch, KmeId
from kme.store.ports import Store
from kme.store.records import (
    MAX_BLOCK_BYTES,
    MAX_EXPIRIES,
    MAX_OPEN_FROM,
    RESERVED_GRANULES,
    Claim,
    Expiry,
    Frontier,
    GranuleRange,
    Settlement,
    Verdict,
)
from kme.store.rules import MAX_NUMBER
from store_contract import (
    LINK,
    A,
    B,
    Backend,
    C,
    FloorStore,
    add_block,
    claim,
    everything,
    in_loop,
    opened,
    proposal,
    refuses_draw,
    room_of,
    rooms,
    some_key,
)

BLOCK_BYTES = 1024
N_GRANULES = BLOCK_BYTES // 8

a_property = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    # Each example opens a store of its own, and each backend runs the same test.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)

Step = tuple[str, int, int]


def steps(*kinds: str) -> st.SearchStrategy[list[Step]]:
    """Make a story: what is done, and two numbers that say to what and how much."""
    one = st.tuples(st.sampled_from(kinds), st.integers(0, 255), st.integers(0, 255))
    return st.lists(one, min_size=5, max_size=40)


async def add_blocks(store: Store, n_blocks: int, owner: KmeId = A) -> None:
    for number in range(1, n_blocks + 1):
        await add_block(store, number, BLOCK_BYTES, owner)
    await store.raise_peer_settled(B, n_blocks)


async def is_there(store: Store, number: int, peer: KmeId = B) -> bool:
    return await store.block(peer, number) is not None


async def use_up(store: Store, claimed: Claim, peer: KmeId = B) -> None:
    await store.give_back(peer, claimed, claimed.reserved.stop)


class FrontierContract:
    """The frontier says what is never allocated any more, and only moves on."""

    @in_loop
    async def test_before_anything_was_settled_nothing_is_behind(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.frontier(B) == Frontier()

    @in_loop
    async def test_own_blocks_with_room_are_named_whatever_the_peer_settled(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        for number, owner in ((1, A), (2, B), (3, A), (4, A)):
            await add_block(store, number, BLOCK_BYTES, owner)
        await store.raise_peer_settled(B, 3)
        assert await store.frontier(B) == Frontier(5, {1: 8, 3: 8, 4: 8})
        store = await backend.crash(store)
        assert await store.frontier(B) == Frontier(5, {1: 8, 3: 8, 4: 8})
        assert await store.frontier(C) == Frontier()
        await store.close()

    @in_loop
    async def test_numbers_that_made_no_block_are_behind(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, BLOCK_BYTES)
            await store.settle(B, Settlement(proposal(5), Verdict.VOID), None)
            assert await store.frontier(B) == Frontier(6, {1: 8})
            await store.open_proposal(B, proposal(7))
            assert await store.frontier(B) == Frontier(6, {1: 8})

    @in_loop
    async def test_what_is_claimed_now_is_not_behind(self, backend: Backend) -> None:
        store = await backend.open()
        await add_blocks(store, 1)
        first, second, third = [await claim(store, 10, worker) for worker in ("v", "v", "w")]
        assert await store.frontier(B) == Frontier(2, {1: 8})
        await store.give_back(B, second, 20)
        assert await store.frontier(B) == Frontier(2, {1: 8})
        await store.give_back(B, first, 9)
        assert await store.frontier(B) == Frontier(2, {1: 28})
        store = await backend.crash(store)
        assert await store.frontier(B) == Frontier(2, {1: 28})
        await store.give_back(B, third, 30)
        assert await store.frontier(B) == Frontier(2, {1: 30})
        await claim(store, 5)
        assert await store.close_claims() == 1
        assert await store.frontier(B) == Frontier(2, {1: 35})
        await store.close()

    @in_loop
    async def test_a_used_up_block_is_named_until_its_last_claim_is_closed(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 2)
            first, last = await claim(store, 100), await claim(store, 20)
            await use_up(store, first)
            assert await store.frontier(B) == Frontier(3, {1: 108, 2: 8})
            await use_up(store, last)
            assert await store.frontier(B) == Frontier(3, {2: 8})

    @in_loop
    async def test_so_many_blocks_are_named_and_no_more(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, MAX_OPEN_FROM)
            named = dict.fromkeys(range(1, MAX_OPEN_FROM + 1), 8)
            assert await store.frontier(B) == Frontier(MAX_OPEN_FROM + 1, named)
            await add_block(store, MAX_OPEN_FROM + 3)
            await add_block(store, MAX_OPEN_FROM + 4)
            assert await store.frontier(B) == Frontier(MAX_OPEN_FROM + 3, named)
            await use_up(store, await claim(store, room_of(BLOCK_BYTES)))
            del named[1]
            named[MAX_OPEN_FROM + 3] = 8
            assert await store.frontier(B) == Frontier(MAX_OPEN_FROM + 4, named)

    @in_loop
    async def test_below_the_floor_only_what_is_claimed_is_named(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 3)
            claimed = await claim(store, 10)
            await store.raise_floors(B, allocate=2)
            assert await store.frontier(B) == Frontier(4, {1: 8, 3: 8})
            await store.give_back(B, claimed, 8)
            assert await store.frontier(B) == Frontier(4, {3: 8})
            await store.raise_floors(B, allocate=9)
            assert await store.frontier(B) == Frontier(4)

    @a_property
    @given(story=steps("block", "settled", "floor", *4 * ["claim"], *2 * ["give_back"], "close"))
    @in_loop
    async def test_it_never_goes_back_and_nothing_behind_it_is_ever_claimed(
        self, backend: Backend, story: list[Step]
    ) -> None:
        async with opened(backend) as store:
            allocation = Allocation(store)
            for step in story:
                await allocation.do(*step)


class Allocation:
    """A store under random calls of the owner, and all that ever was behind its frontier."""

    def __init__(self, store: FloorStore) -> None:
        self.store = store
        self.n_blocks = 0
        self.open: list[Claim] = []
        self.behind: set[tuple[int, int]] = set()

    async def do(self, kind: str, which: int, how_much: int) -> None:
        """Make one call and see what it did to the frontier."""
        if kind == "block":
            self.n_blocks += 1
            owner = B if which % 4 == 0 else A
            await add_block(self.store, self.n_blocks, 128, owner)
        elif kind == "settled":
            await self.store.raise_peer_settled(B, self.n_blocks)
        elif kind == "floor":
            await self.store.raise_floors(B, allocate=which % (self.n_blocks + 1) // 2)
        elif kind == "claim":
            await self._claim(1 + how_much % 8)
        elif kind == "give_back" and self.open:
            claimed = self.open.pop(which % len(self.open))
            used = how_much % (claimed.reserved.n_granules + 1)
            await self.store.give_back(B, claimed, claimed.reserved.start + used)
        elif kind == "close":
            assert await self.store.close_claims() == len(self.open)
            self.open = []
        await self._look()

    async def _claim(self, n_granules: int) -> None:
        got = await self.store.claim(B, "w", n_granules, n_granules)
        if got is not None:
            assert not self.behind & set(_places(got.reserved))
            self.open.append(got)

    async def _look(self) -> None:
        frontier = await self.store.frontier(B)
        places = [(n, g) for n in range(1, self.n_blocks + 1) for g in range(16)]
        behind = {place for place in places if frontier.is_behind(*place)}
        assert self.behind <= behind
        self.behind = behind
        for claimed in self.open:
            assert not behind & set(_places(claimed.reserved))


def _places(wanted: GranuleRange) -> list[tuple[int, int]]:
    return [(wanted.block_number, granule) for granule in range(wanted.start, wanted.stop)]


class DestructionContract:
    """What nothing can come of any more is destroyed."""

    @in_loop
    async def test_an_own_block_is_gone_when_it_is_used_up_and_its_last_claim_closed(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await add_blocks(store, 2)
        first, last = await claim(store, 100), await claim(store, 20)
        await use_up(store, last)
        assert await is_there(store, 1)
        await use_up(store, first)
        assert not await is_there(store, 1)
        assert await is_there(store, 2)
        store = await backend.crash(store)
        assert not await is_there(store, 1)
        await use_up(store, first)
        assert await rooms(store) == {room_of(BLOCK_BYTES): 1}
        await store.close()

    @in_loop
    async def test_a_block_that_gets_room_back_stays(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 1)
            claimed = await claim(store, room_of(BLOCK_BYTES))
            await store.give_back(B, claimed, 100)
            assert await is_there(store, 1)
            assert await rooms(store) == {28: 1}

    @in_loop
    async def test_closing_all_claims_destroys_what_is_used_up(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 3)
            await claim(store, room_of(BLOCK_BYTES), "v")
            await claim(store, room_of(BLOCK_BYTES) - 5, "w")
            await claim(store, room_of(BLOCK_BYTES), "w")
            assert await store.close_claims("w") == 2
            assert [await is_there(store, number) for number in (1, 2, 3)] == [True, True, False]
            assert await store.close_claims() == 1
            assert [await is_there(store, number) for number in (1, 2, 3)] == [False, True, False]
            assert await rooms(store) == {5: 1}

    @in_loop
    async def test_of_too_many_remainders_the_smallest_are_given_up(self, backend: Backend) -> None:
        n_begun = MAX_OPEN_FROM + 3
        store = await backend.open()
        await add_blocks(store, n_begun)
        # Each wants more than any remainder has, and so begins a block.
        begun = [await claim(store, 100 + number // 2) for number in range(1, n_begun + 1)]
        assert [one.reserved.block_number for one in begun] == [*range(1, n_begun + 1)]
        assert sum((await rooms(store)).values()) == n_begun
        for one in begun:
            await use_up(store, one)
        store = await backend.crash(store)
        # Of blocks 34 and 35 only 3 granules are left, of 32 and 33 four: the lower number goes.
        given_up = {n_begun - 1, n_begun, n_begun - 3}
        for number in range(1, n_begun + 1):
            assert await is_there(store, number) == (number not in given_up)
        assert sum((await rooms(store)).values()) == MAX_OPEN_FROM
        frontier = await store.frontier(B)
        assert set(frontier.open_from) == set(range(1, n_begun + 1)) - given_up
        assert frontier.number == n_begun + 1
        assert (await claim(store, 3)).reserved.block_number == n_begun - 2
        await store.close()

    @in_loop
    async def test_own_blocks_have_no_ledger(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 1)
            claimed = await claim(store, 10)
            await refuses_draw(store, claimed.reserved)
            await use_up(store, claimed)
            await refuses_draw(store, claimed.reserved)

    @in_loop
    async def test_a_block_of_the_peer_is_gone_when_all_of_it_was_drawn(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await add_blocks(store, 2, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 20), GranuleRange(1, 30, N_GRANULES)])
        assert await is_there(store, 1)
        await store.draw(B, [GranuleRange(1, 20, 30), GranuleRange(2, 8, 9)])
        for _ in range(2):
            assert [await is_there(store, number) for number in (1, 2)] == [False, True]
            # It is as unknown as a block that never was: no overlap, no alarm.
            for start, stop in ((20, 30), (8, N_GRANULES), (19, 21), (100, 2000)):
                await refuses_draw(store, GranuleRange(1, start, stop))
            await refuses_draw(store, GranuleRange(2, 9, 10), GranuleRange(1, 20, 30))
            store = await backend.crash(store)
        await store.draw(B, [GranuleRange(2, 9, 10)])
        await store.close()

    @in_loop
    async def test_of_many_that_draw_the_last_key_one_gets_it_and_no_alarm_is_raised(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 1, owner=B)
            await store.draw(B, [GranuleRange(1, 8, 124)])
            last = GranuleRange(1, 124, 128)
            answers = await asyncio.gather(
                *(store.draw(B, [last]) for _ in range(6)), return_exceptions=True
            )
            kinds = Counter(type(answer) for answer in answers)
            assert kinds == {type(None): 1, KeyNotFoundError: 5}
            assert not await is_there(store, 1)

    @in_loop
    async def test_raised_floors_destroy_what_lies_at_or_below_them(self, backend: Backend) -> None:
        store = await backend.open()
        for number, owner in ((1, A), (2, B), (3, A), (4, B), (5, A), (6, B)):
            await add_block(store, number, BLOCK_BYTES, owner)
        await store.raise_peer_settled(B, 6)
        claimed = await claim(store, 10)
        await store.raise_floors(B, allocate=4)
        there = [number for number in range(1, 7) if await is_there(store, number)]
        assert there == [1, 2, 4, 5, 6]
        await store.give_back(B, claimed, 8)
        await store.raise_floors(B, draw=5)
        store = await backend.crash(store)
        there = [number for number in range(1, 7) if await is_there(store, number)]
        assert there == [5, 6]
        assert await rooms(store) == {room_of(BLOCK_BYTES): 1}
        await refuses_draw(store, GranuleRange(4, 8, 9))
        await store.draw(B, [GranuleRange(6, 8, 9)])
        await store.close()

    @in_loop
    async def test_blocks_of_a_kme_with_itself_stay_until_they_are_drawn(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, BLOCK_BYTES, peer=A)
            await store.raise_peer_settled(A, 1)
            claimed = await claim(store, room_of(BLOCK_BYTES), peer=A)
            await use_up(store, claimed, peer=A)
            assert await store.frontier(A) == Frontier(2)
            assert await is_there(store, 1, peer=A)
            await store.draw(A, [claimed.reserved])
            assert not await is_there(store, 1, peer=A)
            with pytest.raises(KeyNotFoundError):
                await store.draw(A, [claimed.reserved])


class ExpiryContract:
    """Keys behind the peer's frontier can be drawn until they expire, and then no more."""

    @in_loop
    async def test_what_was_noted_is_listed_the_earliest_first(self, backend: Backend) -> None:
        store = await backend.open()
        assert await store.expiries(B) == []
        noted = [
            Expiry(Frontier(5, {1: 8, 3: 20}), 1000.25),
            Expiry(Frontier(7, {3: 21}), 1000.25),
            Expiry(Frontier(7), 2000.0),
        ]
        for one in noted:
            await store.note_expiry(B, one)
        store = await backend.crash(store)
        assert await store.expiries(B) == noted
        assert await store.expiries(C) == []
        await store.close()

    @in_loop
    async def test_noting_the_last_one_again_does_nothing(self, backend: Backend) -> None:
        async with opened(backend) as store:
            noted = [Expiry(Frontier(5, {1: 8}), 10.0), Expiry(Frontier(6), 20.0)]
            for one in (noted[0], noted[0], noted[1], noted[1]):
                await store.note_expiry(B, one)
            assert await store.expiries(B) == noted

    @in_loop
    async def test_only_so_many_wait(self, backend: Backend) -> None:
        async with opened(backend) as store:
            noted = [Expiry(Frontier(i), 100.0 + i) for i in range(MAX_EXPIRIES)]
            for one in noted:
                await store.note_expiry(B, one)
            with pytest.raises(InputError):
                await store.note_expiry(B, Expiry(Frontier(999), 9999.0))
            await store.note_expiry(B, noted[-1])
            assert await store.expiries(B) == noted
            assert await store.expire(B, 101.0) == 0
            assert await store.expiries(B) == noted[2:]
            await store.note_expiry(B, Expiry(Frontier(999), 9999.0))

    @pytest.mark.parametrize(
        "refused",
        [
            Expiry(Frontier(9), 99.0),
            Expiry(Frontier(9), math.nan),
            Expiry(Frontier(9), math.inf),
            Expiry(Frontier(MAX_NUMBER + 2), 200.0),
            Expiry(Frontier(2**70), 200.0),
            Expiry(Frontier(9, {1: MAX_BLOCK_BYTES // 8 + 1}), 200.0),
            Expiry(Frontier(9, {1: 2**70}), 200.0),
        ],
    )
    @in_loop
    async def test_what_cannot_be_is_refused_and_leaves_no_trace(
        self, backend: Backend, refused: Expiry
    ) -> None:
        async with opened(backend) as store:
            await store.note_expiry(B, Expiry(Frontier(9), 100.0))
            with pytest.raises(InputError):
                await store.note_expiry(B, refused)
            assert await store.expiries(B) == [Expiry(Frontier(9), 100.0)]
            await store.note_expiry(
                B, Expiry(Frontier(MAX_NUMBER + 1, {1: MAX_BLOCK_BYTES // 8}), 100.0)
            )

    @in_loop
    async def test_nothing_expires_before_it_is_due(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 2, owner=B)
            assert await store.expire(B, 1e12) == 0
            await store.note_expiry(B, Expiry(Frontier(3), 100.0))
            before = await everything(store)
            assert await store.expire(B, 99.9) == 0
            assert await everything(store) == before
            await store.draw(B, [GranuleRange(1, 8, 9)])

    @in_loop
    async def test_whole_blocks_behind_the_frontier_are_destroyed(self, backend: Backend) -> None:
        store = await backend.open()
        for number, owner in ((1, B), (2, A), (3, B), (4, B), (5, B)):
            await add_block(store, number, BLOCK_BYTES, owner)
        await store.raise_peer_settled(B, 5)
        await store.draw(B, [GranuleRange(1, 8, 28)])
        await store.note_expiry(B, Expiry(Frontier(5, {4: 8}), 100.0))
        n_expired = await store.expire(B, 100.0)
        # What was drawn did not expire.
        assert n_expired == 2 * room_of(BLOCK_BYTES) - 20
        for _ in range(2):
            there = [number for number in range(1, 6) if await is_there(store, number)]
            assert there == [2, 4, 5]
            await refuses_draw(store, GranuleRange(1, 8, 28))
            await refuses_draw(store, GranuleRange(1, 20, 40))
            await refuses_draw(store, GranuleRange(3, 8, 9))
            assert await store.expiries(B) == []
            assert await store.expire(B, 1e12) == 0
            store = await backend.crash(store)
        assert await rooms(store) == {room_of(BLOCK_BYTES): 1}
        await store.draw(B, [GranuleRange(4, 8, N_GRANULES), GranuleRange(5, 8, N_GRANULES)])
        await store.close()

    @in_loop
    async def test_of_a_block_in_use_only_what_is_behind_expires(self, backend: Backend) -> None:
        store = await backend.open()
        await add_blocks(store, 2, owner=B)
        await store.draw(B, [GranuleRange(1, 10, 15)])
        await store.note_expiry(B, Expiry(Frontier(3, {1: 20, 2: 8}), 100.0))
        assert await store.expire(B, 100.0) == 7
        store = await backend.crash(store)
        await refuses_draw(store, GranuleRange(1, 8, 10))
        await refuses_draw(store, GranuleRange(1, 10, 15))
        await refuses_draw(store, GranuleRange(1, 15, 20))
        await store.draw(B, [GranuleRange(1, 20, 30), GranuleRange(2, 8, 10)])
        # The same frontier later: nothing new is behind it.
        await store.note_expiry(B, Expiry(Frontier(3, {1: 20, 2: 8}), 200.0))
        assert await store.expire(B, 200.0) == 0
        await store.draw(B, [GranuleRange(1, 30, 40), GranuleRange(2, 10, 20)])
        await store.close()

    @in_loop
    async def test_a_block_in_use_is_destroyed_when_nothing_of_it_is_left(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 2, owner=B)
            await store.draw(B, [GranuleRange(1, 100, N_GRANULES)])
            frontier = Frontier(9, {1: 100, 2: MAX_BLOCK_BYTES // 8, 7: 20})
            await store.note_expiry(B, Expiry(frontier, 100.0))
            assert await store.expire(B, 100.0) == 92 + room_of(BLOCK_BYTES)
            assert [await is_there(store, number) for number in (1, 2)] == [False, False]
            await refuses_draw(store, GranuleRange(1, 99, 101))

    @in_loop
    async def test_the_latest_that_is_due_counts_and_the_others_wait(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_blocks(store, 4, owner=B)
            for number, due_unix_s in ((2, 10.0), (3, 20.0), (4, 30.0)):
                await store.note_expiry(B, Expiry(Frontier(number), due_unix_s))
            assert await store.expire(B, 29.0) == 2 * room_of(BLOCK_BYTES)
            assert await store.expiries(B) == [Expiry(Frontier(4), 30.0)]
            assert [await is_there(store, n) for n in (1, 2, 3, 4)] == [False, False, True, True]
            assert await store.expire(B, 30.0) == room_of(BLOCK_BYTES)
            assert [await is_there(store, n) for n in (3, 4)] == [False, True]

    @in_loop
    async def test_a_block_that_comes_later_is_not_behind(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, BLOCK_BYTES, B)
            await store.note_expiry(B, Expiry(Frontier(2), 100.0))
            await add_block(store, 2, BLOCK_BYTES, B)
            assert await store.expire(B, 100.0) == room_of(BLOCK_BYTES)
            await store.draw(B, [GranuleRange(2, 8, 9)])
            # What came in stays known, whatever became of it.
            assert not await store.ingest(B, LINK, Epoch(1001), [some_key(8)])

    @in_loop
    async def test_very_many_blocks_expire_in_one_call(self, backend: Backend) -> None:
        n_blocks = 150
        async with opened(backend) as store:
            for number in range(1, n_blocks + 1):
                await add_block(store, number, 72, B)
            await store.note_expiry(B, Expiry(Frontier(n_blocks, {7: 8}), 100.0))
            expiring = asyncio.create_task(store.expire(B, 100.0))
            await asyncio.sleep(0)
            await store.draw(B, [GranuleRange(7, 8, 9)])
            assert await expiring == n_blocks - 2
            there = [n for n in range(1, n_blocks + 1) if await is_there(store, n)]
            assert there == [n_blocks]

    @in_loop
    async def test_blocks_of_a_kme_with_itself_expire_too(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, BLOCK_BYTES, peer=A)
            await store.raise_peer_settled(A, 1)
            await use_up(store, await claim(store, room_of(BLOCK_BYTES), peer=A), peer=A)
            await store.note_expiry(A, Expiry(await store.frontier(A), 100.0))
            assert await store.expire(A, 100.0) == room_of(BLOCK_BYTES)
            assert not await is_there(store, 1, peer=A)

    @a_property
    @given(story=steps(*2 * ["block"], *4 * ["draw"], *2 * ["note"], "expire", "floor"))
    @in_loop
    async def test_a_key_is_drawn_once_or_expires_and_no_other_is_lost(
        self, backend: Backend, story: list[Step]
    ) -> None:
        async with opened(backend) as store:
            drawing = Drawing(store)
            for step in story:
                await drawing.do(*step)
            await drawing.every_other_key_can_be_drawn()


class Drawing:
    """A store under random calls of the drawing KME, and what is left by hand."""

    def __init__(self, store: FloorStore) -> None:
        self.store = store
        self.left: set[tuple[int, int]] = set()
        self.noted: list[Expiry] = []
        self.n_blocks = 0
        self.now_s = 0.0

    async def do(self, kind: str, which: int, how_much: int) -> None:
        """Make one call and do the same by hand."""
        if kind == "block":
            self.n_blocks += 1
            await add_block(self.store, self.n_blocks, 128, B)
            self.left |= {(self.n_blocks, granule) for granule in range(RESERVED_GRANULES, 16)}
        elif kind == "draw":
            start = RESERVED_GRANULES + how_much % 8
            await self._draw(GranuleRange(1 + which % (self.n_blocks + 1), start, start + 1))
        elif kind == "note":
            await self._note(which, how_much)
        elif kind == "floor":
            floor = which % (self.n_blocks + 1) // 2
            await self.store.raise_floors(B, draw=floor)
            self.left = {(number, granule) for number, granule in self.left if number > floor}
        else:
            await self._expire(how_much)
        there = {n for n in range(1, self.n_blocks + 1) if await is_there(self.store, n)}
        assert there == {number for number, _ in self.left}

    async def every_other_key_can_be_drawn(self) -> None:
        for number, granule in sorted(self.left):
            await self._draw(GranuleRange(number, granule, granule + 1))

    async def _draw(self, wanted: GranuleRange) -> None:
        places = set(_places(wanted))
        if places <= self.left:
            await self.store.draw(B, [wanted])
            self.left -= places
        else:
            await refuses_draw(self.store, wanted)

    async def _note(self, which: int, how_much: int) -> None:
        number = which % (self.n_blocks + 2)
        named = {n: 8 + (how_much + n) % 9 for n in range(1, number) if (how_much >> n % 8) % 2}
        due_unix_s = self.noted[-1].due_unix_s if self.noted else self.now_s
        noted = Expiry(Frontier(number, named), due_unix_s + 1 + how_much % 7)
        await self.store.note_expiry(B, noted)
        self.noted.append(noted)

    async def _expire(self, how_much: int) -> None:
        self.now_s += how_much % 16
        due = [one for one in self.noted if one.due_unix_s <= self.now_s]
        behind = {place for place in self.left if due and due[-1].frontier.is_behind(*place)}
        assert await self.store.expire(B, self.now_s) == len(behind)
        assert await self.store.expire(B, self.now_s) == 0
        self.left -= behind
        self.noted = self.noted[len(due) :]
        assert await self.store.expiries(B) == self.noted


class EndOfKeysContract(FrontierContract, DestructionContract, ExpiryContract):
    """All these promises; a backend's tests derive from it, too."""
