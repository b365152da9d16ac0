"""What every store promises (`kme.store.ports`), each promise as a test.

A backend's test module derives from `StoreContract`, and from the class of the
same kind in `store_contract_expiry`, and gives them a fixture `backend`.
"""

import asyncio
import functools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, Protocol

import pytest

from kme.errors import (
    InputError,
    KeyNotFoundError,
    OverlapError,
    PairingError,
    StoreUnavailableError,
)
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store.ports import Store
from kme.store.records import (
    MAX_BLOCK_BYTES,
    RESERVED_GRANULES,
    Claim,
    Expiry,
    FinalKey,
    FinalKeyRef,
    Frontier,
    GranuleRange,
    HeartbeatRecord,
    InboxEntry,
    Incident,
    IncidentKind,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    SourceClass,
    Stock,
    Verdict,
)
from kme.store.rules import MAX_NUMBER

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
LINK, OTHER = SourceId("link"), SourceId("other")

_P = ParamSpec("_P")


class FloorStore(Store, Protocol):
    """A store whose floors can be raised, as a restore will."""

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None: ...


class Backend(Protocol):
    """How a kind of store is opened, and what the next process finds of it."""

    async def open(self) -> FloorStore:
        """Open a new store of KME A."""
        ...

    async def reopen(self, store: FloorStore) -> FloorStore:
        """Close a store and open it again."""
        ...

    async def crash(self, store: FloorStore) -> FloorStore:
        """Open what a killed process leaves."""
        ...


def in_loop(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def story() -> None:
            await test(*args, **kwargs)

        asyncio.run(story())

    return run


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[FloorStore]:
    """Open a store for a test and close it behind it."""
    store = await backend.open()
    try:
        yield store
    finally:
        await store.close()


def ref(epoch: int, part: int = 0, source: SourceId = LINK) -> FinalKeyRef:
    return FinalKeyRef(source, Epoch(epoch), part)


def some_key(n_bytes: int, seed: int = 0) -> Secret:
    return Secret(random.Random(seed).randbytes(n_bytes))


def proposal(number: int, *entries: FinalKeyRef, owner: KmeId = A, tag: int = 7) -> Proposal:
    listed = entries or (ref(1000 + number),)
    return Proposal(number, owner, listed, 3600, SourceClass.QKD, bytes([tag]) * 16)


def equal(number: int, *entries: FinalKeyRef, owner: KmeId = A) -> Settlement:
    return Settlement(proposal(number, *entries, owner=owner), Verdict.EQUAL)


async def add_block(
    store: Store, number: int, n_bytes: int = 1024, owner: KmeId = A, peer: KmeId = B
) -> Secret:
    """Make a block, as pairing does, and return its bytes."""
    key = some_key(n_bytes, number)
    assert await store.ingest(peer, LINK, Epoch(1000 + number), [key])
    await store.settle(peer, equal(number, owner=owner), key)
    return key


def room_of(n_bytes: int) -> int:
    return n_bytes // 8 - RESERVED_GRANULES


async def rooms(store: Store, peer: KmeId = B) -> dict[int, int]:
    return dict((await store.stock(peer)).blocks_by_room)


async def claim(store: Store, n_granules: int, worker: str = "w", peer: KmeId = B) -> Claim:
    claimed = await store.claim(peer, worker, n_granules, n_granules)
    assert claimed is not None
    return claimed


async def refuses_draw(
    store: Store, *ranges: GranuleRange, error: type[KeyNotFoundError] = KeyNotFoundError
) -> None:
    with pytest.raises(KeyNotFoundError) as caught:
        await store.draw(B, ranges)
    assert caught.type is error


def granules(ranges: Sequence[GranuleRange]) -> list[tuple[int, int]]:
    return [(r.block_number, g) for r in ranges for g in range(r.start, r.stop)]


async def everything(store: Store) -> list[object]:
    """Return all that a store tells about the pair with B, but what is drawn."""
    entries = await store.inbox(B, LINK, None, 1000)
    blocks = [await store.block(B, number) for number in range(10)]
    return [
        entries,
        await store.final_keys(B, [entry.ref for entry in entries]),
        await store.pairing(B),
        [(b, b.key.reveal()) for b in blocks if b is not None],
        await store.stock(B),
        await store.heartbeat(B),
        await store.frontier(B),
        await store.expiries(B),
        await store.incidents(100),
    ]


class InboxContract:
    """Final keys come in once, wait, and leave."""

    @in_loop
    async def test_what_waits_is_counted_up_to_a_limit(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.n_waiting(B, LINK, 9) == 0
            for epoch in (1, 2, 9):
                assert await store.ingest(B, LINK, Epoch(epoch), [some_key(9), some_key(9)])
            assert await store.ingest(B, OTHER, Epoch(5), [some_key(9)])
            counts = [await store.n_waiting(B, LINK, most) for most in (0, 4, 6, 9)]
            assert counts == [0, 4, 6, 6]
            await store.burn_inbox(B)
            assert await store.n_waiting(B, LINK, 9) == 0

    @in_loop
    async def test_what_came_in_is_listed_in_order_and_read_back(self, backend: Backend) -> None:
        async with opened(backend) as store:
            first, second, long = some_key(100, 1), some_key(1, 2), some_key(MAX_BLOCK_BYTES, 3)
            assert await store.ingest(B, LINK, Epoch(9), [first])
            assert await store.ingest(B, LINK, Epoch(0), [long, second])
            assert await store.ingest(B, OTHER, Epoch(5), [second])
            assert await store.ingest(C, LINK, Epoch(6), [second])
            listed = [InboxEntry(ref(0), MAX_BLOCK_BYTES), InboxEntry(ref(0, 1), 1)]
            listed.append(InboxEntry(ref(9), 100))
            assert await store.inbox(B, LINK, None, 10) == listed
            assert await store.inbox(B, LINK, None, 2) == listed[:2]
            assert await store.inbox(B, LINK, ref(0), 10) == listed[1:]
            assert await store.inbox(B, LINK, ref(0, 1), 1) == listed[2:]
            assert await store.inbox(B, LINK, ref(9), 10) == []
            assert await store.inbox(B, LINK, None, 0) == []
            assert await store.inbox(A, LINK, None, 10) == []
            assert await store.final_keys(B, [ref(9), ref(0), ref(0, 1)]) == [
                FinalKey(ref(9), first),
                FinalKey(ref(0), long),
                FinalKey(ref(0, 1), second),
            ]

    @in_loop
    async def test_an_epoch_comes_in_once_for_good_whatever_became_of_it(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        assert await store.ingest(B, LINK, Epoch(7), [some_key(600)])
        assert not await store.ingest(B, LINK, Epoch(7), [some_key(600)])
        store = await backend.crash(store)
        assert not await store.ingest(B, LINK, Epoch(7), [some_key(600)])
        await store.settle(B, equal(1, ref(7)), some_key(600))
        store = await backend.reopen(store)
        assert not await store.ingest(B, LINK, Epoch(7), [some_key(10, 1)])
        assert await store.inbox(B, LINK, None, 10) == []
        assert await store.ingest(B, OTHER, Epoch(7), [some_key(600)])
        assert await store.ingest(C, LINK, Epoch(7), [some_key(600)])
        await store.close()

    @in_loop
    async def test_a_refused_epoch_leaves_what_came_first(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.ingest(B, LINK, Epoch(7), [some_key(600, 1)])
            assert not await store.ingest(B, LINK, Epoch(7), [some_key(5, 2), some_key(6, 3)])
            assert await store.inbox(B, LINK, None, 9) == [InboxEntry(ref(7), 600)]
            assert await store.final_keys(B, [ref(7)]) == [FinalKey(ref(7), some_key(600, 1))]

    @pytest.mark.parametrize("seed", range(5))
    @in_loop
    async def test_epochs_in_any_order_come_in_exactly_once_each(
        self, backend: Backend, seed: int
    ) -> None:
        rng = random.Random(seed)
        numbers = [rng.randrange(60) for _ in range(120)] + [2**32 - 1, 0, 2**32 - 1]
        async with opened(backend) as store:
            seen: set[int] = set()
            for number in numbers:
                is_new = await store.ingest(B, LINK, Epoch(number), [some_key(8)])
                assert is_new == (number not in seen)
                seen.add(number)
            listed = await store.inbox(B, LINK, None, 1000)
            assert [entry.ref.epoch.number for entry in listed] == sorted(seen)

    @in_loop
    async def test_many_tasks_that_bring_the_same_epoch_bring_it_once(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            answers = await asyncio.gather(
                *(store.ingest(B, LINK, Epoch(i // 4), [some_key(8, i)]) for i in range(40))
            )
            assert sum(answers) == 10
            assert len(await store.inbox(B, LINK, None, 100)) == 10

    @pytest.mark.parametrize("sizes", [(), (0,), (8, 0), (MAX_BLOCK_BYTES + 1,)])
    @in_loop
    async def test_a_key_cut_wrongly_is_refused_and_leaves_no_trace(
        self, backend: Backend, sizes: tuple[int, ...]
    ) -> None:
        async with opened(backend) as store:
            with pytest.raises(InputError):
                await store.ingest(B, LINK, Epoch(7), [some_key(size) for size in sizes])
            assert await store.inbox(B, LINK, None, 10) == []
            assert await store.ingest(B, LINK, Epoch(7), [some_key(8)])

    @in_loop
    async def test_only_what_is_held_is_returned_in_the_order_asked(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for number in (3, 1, 2):
                await store.ingest(B, LINK, Epoch(number), [some_key(8 + number, number)])
            asked = [ref(2), ref(4), ref(1, 1), ref(1), ref(1, 2**70), ref(1, source=OTHER)]
            assert await store.held(B, asked) == [InboxEntry(ref(2), 10), InboxEntry(ref(1), 9)]
            assert [key.ref for key in await store.final_keys(B, asked)] == [ref(2), ref(1)]
            assert await store.held(C, asked) == []

    @in_loop
    async def test_what_a_caller_wipes_is_not_wiped_in_the_store(self, backend: Backend) -> None:
        async with opened(backend) as store:
            given = some_key(600)
            await store.ingest(B, LINK, Epoch(1), [given])
            given.wipe()
            (read,) = await store.final_keys(B, [ref(1)])
            read.key.wipe()
            assert (await store.final_keys(B, [ref(1)]))[0].key == some_key(600)
            await store.settle(B, equal(1, ref(1)), some_key(600))
            for _ in range(2):
                block = await store.block(B, 1)
                assert block is not None
                assert block.key == some_key(600)
                block.key.wipe()


class BurnContract:
    """An operator may have everything burnt that waits."""

    @in_loop
    async def test_all_that_waits_is_burnt_and_comes_in_never_again(self, backend: Backend) -> None:
        store = await backend.open()
        assert await store.ingest(B, LINK, Epoch(7), [some_key(600), some_key(5, 1)])
        assert await store.ingest(B, OTHER, Epoch(7), [some_key(600)])
        assert await store.ingest(C, LINK, Epoch(7), [some_key(600)])
        assert await store.burn_inbox(B) == 3
        assert await store.burn_inbox(B) == 0
        store = await backend.crash(store)
        assert await store.inbox(B, LINK, None, 9) == await store.inbox(B, OTHER, None, 9) == []
        assert await store.final_keys(B, [ref(7), ref(7, 1), ref(7, 0, OTHER)]) == []
        assert await store.inbox(C, LINK, None, 9) == [InboxEntry(ref(7), 600)]
        assert not await store.ingest(B, LINK, Epoch(7), [some_key(600)])
        assert await store.ingest(B, LINK, Epoch(8), [some_key(600)])
        assert await store.inbox(B, LINK, None, 9) == [InboxEntry(ref(8), 600)]
        await store.close()

    @in_loop
    async def test_what_an_open_proposal_lists_stays_until_it_is_settled(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            for epoch in (6, 7, 8):
                assert await store.ingest(B, LINK, Epoch(epoch), [some_key(600, epoch)])
            assert await store.ingest(B, OTHER, Epoch(7), [some_key(600)])
            await store.open_proposal(B, proposal(1, ref(7)))
            assert await store.burn_inbox(B) == 3
            assert await store.inbox(B, LINK, None, 9) == [InboxEntry(ref(7), 600)]
            await store.settle(B, equal(1, ref(7)), some_key(600, 7))
            assert await store.inbox(B, LINK, None, 9) == []
            assert await store.burn_inbox(B) == 0

    @in_loop
    async def test_what_was_burnt_or_used_cannot_be_proposed_any_more(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            for epoch in (6, 7, 8):
                parts = [some_key(600, epoch), some_key(5, epoch)]
                assert await store.ingest(B, LINK, Epoch(epoch), parts)
            await store.open_proposal(B, proposal(1, ref(6)))
            await store.settle(B, equal(1, ref(6)), some_key(600, 6))
            before = await store.pairing(B)
            with pytest.raises(PairingError, match="burnt meanwhile"):
                await store.open_proposal(B, proposal(2, ref(7), ref(6)))
            assert await store.burn_inbox(B) == 5
            for gone in (ref(7), ref(8, 1)):
                with pytest.raises(PairingError, match="burnt meanwhile"):
                    await store.open_proposal(B, proposal(2, gone))
            assert await store.pairing(B) == before
            assert await store.ingest(B, LINK, Epoch(9), [some_key(600)])
            await store.open_proposal(B, proposal(2, ref(9)))

    @in_loop
    async def test_burning_where_nothing_ever_came_in_does_nothing(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.burn_inbox(B) == 0
            assert await store.pairing(B) == PairingRecord()


class PairingContract:
    """Numbers grow, verdicts are written once, and blocks come from verdicts only."""

    @in_loop
    async def test_a_pair_starts_with_a_fresh_record(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.pairing(B) == PairingRecord()

    @in_loop
    async def test_a_proposal_is_durable_and_may_be_repeated(self, backend: Backend) -> None:
        store = await backend.open()
        listed = proposal(3, ref(9), ref(4), ref(4, 1))
        await store.open_proposal(B, listed)
        await store.open_proposal(B, listed)
        store = await backend.crash(store)
        assert await store.pairing(B) == PairingRecord(highest=3, open_proposal=listed)
        await store.open_proposal(B, listed)
        assert await store.pairing(B) == PairingRecord(highest=3, open_proposal=listed)
        assert await store.pairing(C) == PairingRecord()
        await store.close()

    @in_loop
    async def test_a_second_proposal_waits_until_the_first_is_settled(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await store.open_proposal(B, proposal(3))
            for refused in (proposal(4), proposal(3, tag=8), proposal(3, owner=B), proposal(2)):
                with pytest.raises(PairingError):
                    await store.open_proposal(B, refused)
            assert (await store.pairing(B)).open_proposal == proposal(3)
            await store.settle(B, Settlement(proposal(3), Verdict.VOID), None)
            for refused in (proposal(3), proposal(2)):
                with pytest.raises(PairingError):
                    await store.open_proposal(B, refused)
            await store.open_proposal(B, proposal(4))

    @in_loop
    async def test_an_equal_verdict_makes_the_block_and_empties_the_inbox(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        parts = [some_key(300, 1), some_key(301, 2)]
        key = Secret.join(parts)
        await store.ingest(B, LINK, Epoch(5), parts)
        await store.ingest(B, LINK, Epoch(6), [some_key(8)])
        settlement = equal(1, ref(5), ref(5, 1), owner=B)
        await store.open_proposal(B, settlement.proposal)
        await store.settle(B, settlement, key)
        for restart in (backend.crash, backend.reopen):
            store = await restart(store)
            block = await store.block(B, 1)
            assert block == KeyBlock(1, B, LINK, SourceClass.QKD, 3600, key)
            assert block.key == key
            assert block.n_granules == 601 // 8
            assert await store.inbox(B, LINK, None, 9) == [InboxEntry(ref(6), 8)]
            assert await store.pairing(B) == PairingRecord(highest=1, last=settlement)
        await store.draw(B, [GranuleRange(1, RESERVED_GRANULES, 75)])
        await store.close()

    @pytest.mark.parametrize("verdict", [Verdict.VOID, Verdict.UNEQUAL])
    @in_loop
    async def test_any_other_verdict_burns_the_list_and_makes_no_block(
        self, backend: Backend, verdict: Verdict
    ) -> None:
        store = await backend.open()
        for number in (5, 6, 7):
            await store.ingest(B, LINK, Epoch(number), [some_key(600)])
        # One entry that isn't here: what makes a proposal void.
        settlement = Settlement(proposal(1, ref(5), ref(7), ref(99)), verdict)
        await store.open_proposal(B, settlement.proposal)
        await store.settle(B, settlement, None)
        store = await backend.crash(store)
        assert await store.block(B, 1) is None
        assert await store.inbox(B, LINK, None, 9) == [InboxEntry(ref(6), 600)]
        assert await store.final_keys(B, [ref(5), ref(7)]) == []
        assert await store.pairing(B) == PairingRecord(highest=1, last=settlement)
        await refuses_draw(store, GranuleRange(1, 8, 9))
        await store.raise_peer_settled(B, 1)
        assert await rooms(store) == {}
        await store.close()

    @in_loop
    async def test_a_follower_settles_without_a_proposal_of_its_own(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.settle(B, equal(7, owner=B), some_key(512))
            record = await store.pairing(B)
            assert record == PairingRecord(highest=7, last=equal(7, owner=B))
            await store.settle(B, Settlement(proposal(9), Verdict.VOID), None)
            assert (await store.pairing(B)).highest == 9

    @in_loop
    async def test_repeating_the_last_settlement_changes_nothing(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for number, owner in ((1, A), (2, B)):
                key = await add_block(store, number, owner=owner)
                await store.raise_peer_settled(B, number)
                if owner == A:
                    await claim(store, 5)
                else:
                    await store.draw(B, [GranuleRange(number, 20, 30)])
                before = await everything(store)
                await store.settle(B, equal(number, owner=owner), key)
                await store.settle(B, equal(number, owner=owner), None)
                assert await everything(store) == before
                await refuses_draw(store, GranuleRange(number, 20, 30))

    @in_loop
    async def test_a_number_is_settled_once_and_never_otherwise(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.ingest(B, LINK, Epoch(77), [some_key(8)])
            await add_block(store, 4)
            before = await everything(store)
            for refused in (
                Settlement(proposal(4), Verdict.VOID),
                Settlement(proposal(4, ref(77)), Verdict.VOID),
                Settlement(proposal(3, ref(77)), Verdict.UNEQUAL),
                equal(4, owner=B),
                equal(2),
            ):
                key = some_key(512) if refused.verdict is Verdict.EQUAL else None
                with pytest.raises(PairingError):
                    await store.settle(B, refused, key)
            assert await everything(store) == before

    @in_loop
    async def test_a_settlement_cannot_contradict_the_open_proposal(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.open_proposal(B, proposal(2))
            before = await everything(store)
            with pytest.raises(PairingError):
                await store.settle(B, equal(2, ref(5)), some_key(512))
            assert await everything(store) == before
            await store.settle(B, Settlement(proposal(1), Verdict.VOID), None)
            record = await store.pairing(B)
            assert record.open_proposal == proposal(2)
            assert record.highest == 2
            await store.settle(B, equal(2), some_key(512))
            assert (await store.pairing(B)).open_proposal is None

    @pytest.mark.parametrize(
        ("verdict", "n_bytes"),
        [
            (Verdict.EQUAL, None),
            (Verdict.EQUAL, 63),
            (Verdict.EQUAL, MAX_BLOCK_BYTES + 1),
            (Verdict.VOID, 512),
            (Verdict.UNEQUAL, 512),
        ],
    )
    @in_loop
    async def test_a_key_that_does_not_go_with_the_verdict_is_refused(
        self, backend: Backend, verdict: Verdict, n_bytes: int | None
    ) -> None:
        async with opened(backend) as store:
            await store.ingest(B, LINK, Epoch(1001), [some_key(512)])
            before = await everything(store)
            with pytest.raises(PairingError):
                await store.settle(
                    B,
                    Settlement(proposal(1), verdict),
                    None if n_bytes is None else some_key(n_bytes),
                )
            assert await everything(store) == before

    @in_loop
    async def test_the_largest_and_the_smallest_block_are_taken(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 64)
            await add_block(store, 2, MAX_BLOCK_BYTES)
            await store.raise_peer_settled(B, 2)
            assert await rooms(store) == {room_of(MAX_BLOCK_BYTES): 1}
            whole = await store.claim(B, "w", 1, 10**6)
            assert whole is not None
            assert whole.reserved == GranuleRange(2, 8, MAX_BLOCK_BYTES // 8)
            await refuses_draw(store, GranuleRange(1, 8, 9))
            await add_block(store, 3, MAX_BLOCK_BYTES, owner=B)
            await store.draw(B, [GranuleRange(3, 8, MAX_BLOCK_BYTES // 8)])

    @in_loop
    async def test_numbers_beyond_a_key_id_are_refused_everywhere(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for number in (MAX_NUMBER + 1, 2**70):
                with pytest.raises(PairingError):
                    await store.open_proposal(B, proposal(number, ref(1)))
                with pytest.raises(PairingError):
                    await store.settle(B, equal(number, ref(1)), some_key(512))
                with pytest.raises(PairingError):
                    await store.raise_peer_settled(B, number)
                with pytest.raises(PairingError):
                    await store.raise_floors(B, allocate=number)
                assert await store.block(B, number) is None
                await refuses_draw(store, GranuleRange(number, 8, 9))
            assert await store.block(B, -1) is None
            for bad in (
                Proposal(1, A, (ref(1),), 2**70, SourceClass.QKD, bytes(16)),
                Proposal(1, A, (ref(1, 2**70),), 60, SourceClass.QKD, bytes(16)),
            ):
                with pytest.raises(PairingError):
                    await store.open_proposal(B, bad)
                with pytest.raises(PairingError):
                    await store.settle(B, Settlement(bad, Verdict.VOID), None)
            assert await store.pairing(B) == PairingRecord()
            await store.settle(B, equal(MAX_NUMBER, ref(1), owner=B), some_key(512))
            await store.draw(B, [GranuleRange(MAX_NUMBER, 8, 9)])

    @in_loop
    async def test_what_the_peer_settled_only_rises(self, backend: Backend) -> None:
        store = await backend.open()
        for number, expected in ((3, 3), (2, 3), (3, 3), (5, 5), (0, 5)):
            await store.raise_peer_settled(B, number)
            assert (await store.pairing(B)).peer_settled == expected
        store = await backend.crash(store)
        assert await store.pairing(B) == PairingRecord(peer_settled=5)
        await store.close()

    @in_loop
    async def test_pairs_do_not_mix(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 1024, peer=B)
            await add_block(store, 1, 2048, peer=C)
            await store.raise_peer_settled(B, 1)
            assert await rooms(store, B) == {room_of(1024): 1}
            assert await rooms(store, C) == {}
            assert await store.claim(C, "w", 1, 1) is None
            await add_block(store, 2, 1024, owner=B, peer=B)
            await add_block(store, 2, 2048, owner=C, peer=C)
            await store.draw(B, [GranuleRange(2, 8, 20)])
            await store.draw(C, [GranuleRange(2, 8, 20)])


class ClaimContract:
    """A granule is reserved once, in own blocks that the peer has, too."""

    @in_loop
    async def test_only_own_blocks_that_the_peer_settled_are_claimed(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await add_block(store, 2, 1024)
            await add_block(store, 3, 2048)
            await store.raise_peer_settled(B, 1)
            assert await store.claim(B, "w", 1, 1) is None
            assert await rooms(store) == {}
            await store.raise_peer_settled(B, 2)
            assert await rooms(store) == {room_of(1024): 1}
            assert await store.claim(B, "w", room_of(1024) + 1, 10**6) is None
            claimed = await store.claim(B, "w", 1, 10**6)
            assert claimed is not None
            assert claimed.reserved == GranuleRange(2, 8, 128)
            assert await rooms(store) == {}
            await store.raise_peer_settled(B, 9)
            assert await rooms(store) == {room_of(2048): 1}
            await add_block(store, 4, 512)
            assert await rooms(store) == {room_of(2048): 1, room_of(512): 1}

    @in_loop
    async def test_no_block_at_or_below_the_floor_is_claimed(self, backend: Backend) -> None:
        store = await backend.open()
        for number in (1, 2, 3):
            await add_block(store, number, 512 * number)
        await store.raise_peer_settled(B, 2)
        claimed = await claim(store, 4)
        assert claimed.reserved.block_number == 1
        await store.raise_floors(B, allocate=1)
        await store.raise_floors(B, allocate=0)
        assert await rooms(store) == {room_of(1024): 1}
        # Its tail goes back to a block that counts no longer.
        await store.give_back(B, claimed, 9)
        assert await rooms(store) == {room_of(1024): 1}
        store = await backend.crash(store)
        assert (await store.pairing(B)).floor_allocate == 1
        assert (await claim(store, 1)).reserved.block_number == 2
        await store.raise_floors(B, allocate=3)
        await store.raise_peer_settled(B, 3)
        assert await rooms(store) == {}
        assert await store.claim(B, "w", 1, 1) is None
        await add_block(store, 4)
        await store.raise_peer_settled(B, 4)
        assert (await claim(store, 1)).reserved.block_number == 4
        await store.close()

    @in_loop
    async def test_remainders_are_used_up_before_fresh_blocks_in_order(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            for number, n_bytes in ((1, 2048), (2, 1024), (3, 512), (4, 4096), (5, 4096)):
                await add_block(store, number, n_bytes)
            await store.raise_peer_settled(B, 5)
            taken = [
                (await claim(store, n)).reserved for n in (100, 10, 150, 120, 20, 18, 335, 334, 5)
            ]
            assert taken == [
                GranuleRange(1, 8, 108),  # the lowest number, though others have less room
                GranuleRange(1, 108, 118),  # its remainder
                GranuleRange(4, 8, 158),  # the lowest of the fresh ones with so much room
                GranuleRange(1, 118, 238),  # of two remainders with room the smaller
                GranuleRange(4, 158, 178),  # the only remainder with room
                GranuleRange(1, 238, 256),
                GranuleRange(5, 8, 343),
                GranuleRange(4, 178, 512),
                GranuleRange(5, 343, 348),
            ]

    @in_loop
    async def test_a_claim_is_cut_to_what_there_is_but_not_below_the_minimum(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 512)
            await store.raise_peer_settled(B, 1)
            first = await store.claim(B, "w", 1, 40)
            rest = await store.claim(B, "w", 16, 40)
            assert first is not None
            assert rest is not None
            assert (first.reserved.n_granules, rest.reserved.n_granules) == (40, 16)
            assert await store.claim(B, "w", 1, 1) is None
            assert (first.worker, len(first.nonce)) == ("w", 32)
            assert first.nonce != rest.nonce

    @pytest.mark.parametrize(("least", "want"), [(0, 1), (-1, 5), (3, 2)])
    @in_loop
    async def test_a_senseless_wish_is_refused(
        self, backend: Backend, least: int, want: int
    ) -> None:
        async with opened(backend) as store:
            with pytest.raises(InputError):
                await store.claim(B, "w", least, want)

    @in_loop
    async def test_many_workers_never_get_a_granule_twice(self, backend: Backend) -> None:
        store = await backend.open()
        for number in range(1, 6):
            await add_block(store, number, 1000 + 100 * number)
        await store.raise_peer_settled(B, 5)
        total = sum(room * n for room, n in (await rooms(store)).items())
        rng = random.Random(1)

        async def worker(name: str) -> list[GranuleRange]:
            ranges = []
            while (got := await store.claim(B, name, 1, rng.randint(1, 20))) is not None:
                ranges.append(got.reserved)
            return ranges

        got = await asyncio.gather(*(worker(f"w{i}") for i in range(12)))
        taken = granules([r for ranges in got for r in ranges])
        assert len(taken) == len(set(taken)) == total
        store = await backend.crash(store)
        assert await store.claim(B, "w", 1, 1) is None
        await store.close()

    @in_loop
    async def test_an_untouched_tail_returns_to_its_block(self, backend: Backend) -> None:
        store = await backend.open()
        await add_block(store, 1, 1024)
        await store.raise_peer_settled(B, 1)
        claimed = await claim(store, 50)
        await store.give_back(B, claimed, 20)
        store = await backend.crash(store)
        assert await rooms(store) == {room_of(1024) - 12: 1}
        assert (await claim(store, 5)).reserved == GranuleRange(1, 20, 25)
        # Closed by now: nothing is returned a second time.
        await store.give_back(B, claimed, 8)
        assert (await claim(store, 5)).reserved == GranuleRange(1, 25, 30)
        await store.close()

    @in_loop
    async def test_a_claim_used_up_returns_nothing_and_an_unused_one_all(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 1024)
            await store.raise_peer_settled(B, 1)
            used = await claim(store, 10)
            await store.give_back(B, used, used.reserved.stop)
            unused = await claim(store, room_of(1024) - 10)
            assert await rooms(store) == {}
            await store.give_back(B, unused, unused.reserved.start)
            assert await rooms(store) == {room_of(1024) - 10: 1}

    @in_loop
    async def test_a_tail_with_a_claim_behind_it_is_burnt(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 1024)
            await store.raise_peer_settled(B, 1)
            first, second = await claim(store, 10), await claim(store, 10)
            await store.give_back(B, first, 10)
            assert await rooms(store) == {room_of(1024) - 20: 1}
            await store.give_back(B, second, 19)
            assert (await claim(store, 1)).reserved.start == 19

    @in_loop
    async def test_a_granule_outside_the_claim_cannot_be_given_back(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 1024)
            await store.raise_peer_settled(B, 1)
            claimed = await claim(store, 10)
            for untouched_from in (7, 19, -1):
                with pytest.raises(InputError):
                    await store.give_back(B, claimed, untouched_from)
            await store.give_back(B, claimed, 8)
            assert await rooms(store) == {room_of(1024): 1}

    @in_loop
    async def test_a_claim_that_was_never_made_gives_nothing_back(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 1024)
            await store.raise_peer_settled(B, 1)
            real = await claim(store, 10)
            for forged in (
                Claim("0" * 31 + "f", real.worker, real.reserved),
                Claim(real.nonce, "other", real.reserved),
                Claim(real.nonce, real.worker, GranuleRange(1, 8, 17)),
            ):
                await store.give_back(B, forged, 8)
            await store.give_back(C, real, 8)
            assert await rooms(store) == {room_of(1024) - 10: 1}
            assert await store.close_claims() == 1

    @in_loop
    async def test_a_closed_claim_is_never_allocated_from_again(self, backend: Backend) -> None:
        store = await backend.open()
        await add_block(store, 1, 1024)
        await store.raise_peer_settled(B, 1)
        mine = [await claim(store, 10, "mine") for _ in range(2)]
        theirs = [await claim(store, 10, "theirs") for _ in range(3)]
        store = await backend.crash(store)
        assert await store.close_claims("nobody") == 0
        assert await store.close_claims("theirs") == 3
        assert await store.close_claims("theirs") == 0
        await store.give_back(B, theirs[2], 48)
        assert await rooms(store) == {room_of(1024) - 50: 1}
        assert await store.close_claims() == 2
        await store.give_back(B, mine[1], 18)
        assert (await claim(store, 1)).reserved.start == 58
        await store.close()

    @in_loop
    async def test_stock_tells_what_claims_can_still_get(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.stock(B) == Stock({})
            for number in (1, 2, 3):
                await add_block(store, number, 1024)
            await store.raise_peer_settled(B, 3)
            assert await store.stock(B) == Stock({120: 3})
            await claim(store, 20)
            assert await store.stock(B) == Stock({120: 2, 100: 1})
            await claim(store, 100)
            assert await store.stock(B) == Stock({120: 2})

    @pytest.mark.parametrize("seed", range(4))
    @in_loop
    async def test_stock_equals_a_recount_after_anything_that_happened(
        self, backend: Backend, seed: int
    ) -> None:
        async with opened(backend) as store:
            recount = Recount(store, random.Random(seed))
            for _ in range(200):
                await recount.step()
                assert await rooms(store) == recount.rooms()


class Recount:
    """A store under random calls, and the room of every block counted by hand."""

    def __init__(self, store: FloorStore, rng: random.Random) -> None:
        self.store, self.rng = store, rng
        self.n_blocks = self.settled = self.floor = 0
        self.spans: dict[int, list[int]] = {}
        self.open_claims: list[Claim] = []

    async def step(self) -> None:
        steps = [self.block, self.peer_settled, self.raise_floor]
        await self.rng.choice([*steps, *3 * [self.claim], *2 * [self.give_back]])()

    def rooms(self) -> dict[int, int]:
        usable = [n for n in self.spans if self.floor < n <= self.settled]
        counted = Counter(self.spans[n][1] - self.spans[n][0] for n in usable)
        return {room: n_blocks for room, n_blocks in counted.items() if room}

    async def block(self) -> None:
        self.n_blocks += 1
        n_bytes = self.rng.choice([64, 72, 512, 1001])
        owner = self.rng.choice([A, A, B])
        await add_block(self.store, self.n_blocks, n_bytes, owner)
        if owner == A:
            self.spans[self.n_blocks] = [RESERVED_GRANULES, n_bytes // 8]

    async def peer_settled(self) -> None:
        number = self.rng.randint(0, self.n_blocks + 1)
        await self.store.raise_peer_settled(B, number)
        self.settled = max(self.settled, number)

    async def raise_floor(self) -> None:
        number = self.rng.randint(0, max(0, self.n_blocks - 5))
        await self.store.raise_floors(B, allocate=number)
        self.floor = max(self.floor, number)

    async def claim(self) -> None:
        least = self.rng.randint(1, 30)
        got = await self.store.claim(B, "w", least, 30)
        if got is None:
            assert max(self.rooms(), default=0) < least
            return
        span = got.reserved
        assert self.floor < span.block_number <= self.settled
        assert self.spans[span.block_number][0] == span.start
        self.spans[span.block_number][0] = span.stop
        self.open_claims.append(got)

    async def give_back(self) -> None:
        if not self.open_claims:
            return
        back = self.open_claims.pop(self.rng.randrange(len(self.open_claims)))
        span = back.reserved
        untouched = self.rng.randint(span.start, span.stop)
        await self.store.give_back(B, back, untouched)
        if self.spans[span.block_number][0] == span.stop:
            self.spans[span.block_number][0] = untouched


class DrawContract:
    """A granule is drawn once, for ever; a draw is whole or not at all."""

    @in_loop
    async def test_a_range_is_drawn_once(self, backend: Backend) -> None:
        store = await backend.open()
        await add_block(store, 1, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 12), GranuleRange(1, 100, 128)])
        for restart in (backend.crash, backend.reopen):
            store = await restart(store)
            await refuses_draw(store, GranuleRange(1, 8, 12))
            await refuses_draw(store, GranuleRange(1, 101, 102))
        await store.draw(B, [GranuleRange(1, 12, 100)])
        await store.close()

    @in_loop
    async def test_a_key_that_was_drawn_in_part_is_an_overlap(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await store.draw(B, [GranuleRange(1, 20, 24)])
            for start, stop in ((19, 21), (23, 25), (19, 25), (8, 128), (20, 25), (19, 24)):
                await refuses_draw(store, GranuleRange(1, start, stop), error=OverlapError)
            await store.draw(B, [GranuleRange(1, 19, 20), GranuleRange(1, 24, 25)])

    @in_loop
    async def test_ranges_of_one_draw_do_not_overlap(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await add_block(store, 2, owner=B)
            for second in (
                GranuleRange(1, 20, 24),
                GranuleRange(1, 23, 30),
                GranuleRange(1, 8, 99),
            ):
                await refuses_draw(store, GranuleRange(1, 20, 24), second, error=OverlapError)
            # The same place in another block is another place.
            await store.draw(B, [GranuleRange(1, 20, 24), GranuleRange(2, 20, 24)])

    @in_loop
    async def test_a_draw_is_whole_or_leaves_no_trace(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await add_block(store, 2, owner=B)
            await store.draw(B, [GranuleRange(2, 50, 60)])
            good = [GranuleRange(1, 8, 12), GranuleRange(2, 8, 12)]
            for bad, error in (
                (GranuleRange(3, 8, 9), KeyNotFoundError),
                (GranuleRange(1, 128, 129), KeyNotFoundError),
                (GranuleRange(1, 20, 2**70), KeyNotFoundError),
                (GranuleRange(2, 52, 53), KeyNotFoundError),
                (GranuleRange(2, 59, 61), OverlapError),
            ):
                await refuses_draw(store, *good, bad, error=error)
                await refuses_draw(store, bad, *good, error=error)
            await store.draw(B, good)

    @in_loop
    async def test_an_overlap_is_said_even_if_another_range_is_missing(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await store.draw(B, [GranuleRange(1, 20, 24)])
            missing, overlapping = GranuleRange(9, 8, 9), GranuleRange(1, 23, 25)
            await refuses_draw(store, missing, overlapping, error=OverlapError)
            await refuses_draw(store, overlapping, missing, error=OverlapError)

    @in_loop
    async def test_a_draw_of_nothing_does_nothing(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.draw(B, [])

    @in_loop
    async def test_no_range_ends_behind_the_last_whole_granule(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 519, owner=B)
            await refuses_draw(store, GranuleRange(1, 64, 65))
            await refuses_draw(store, GranuleRange(1, 63, 65))
            await store.draw(B, [GranuleRange(1, 63, 64)])

    @in_loop
    async def test_the_peers_blocks_are_drawn_whatever_the_peer_settled(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)
            await store.draw(B, [GranuleRange(1, 8, 9)])

    @in_loop
    async def test_no_draw_at_or_below_the_floor(self, backend: Backend) -> None:
        store = await backend.open()
        for number in (1, 2, 3):
            await add_block(store, number, owner=B)
        await store.raise_floors(B, draw=2)
        await store.raise_floors(B, draw=1)
        store = await backend.crash(store)
        assert (await store.pairing(B)).floor_draw == 2
        for number in (1, 2):
            await refuses_draw(store, GranuleRange(number, 8, 9))
        await refuses_draw(store, GranuleRange(3, 8, 9), GranuleRange(2, 8, 9))
        await store.draw(B, [GranuleRange(3, 8, 9)])
        # The floors are two: allocation went on all the time.
        assert (await store.pairing(B)).floor_allocate == 0
        await store.close()

    @in_loop
    async def test_of_many_that_draw_the_same_key_one_gets_it(self, backend: Backend) -> None:
        store = await backend.open()
        await add_block(store, 1, owner=B)
        await add_block(store, 2, owner=B)
        wanted = [GranuleRange(n, 8 + 3 * k, 11 + 3 * k) for n in (1, 2) for k in range(40)]
        random.Random(3).shuffle(wanted)

        async def drawn_by(rng: random.Random) -> list[GranuleRange]:
            got = []
            for one in rng.sample(wanted, len(wanted)):
                try:
                    await store.draw(B, [one])
                except OverlapError:
                    raise
                except KeyNotFoundError:
                    continue
                got.append(one)
            return got

        got = await asyncio.gather(*(drawn_by(random.Random(i)) for i in range(8)))
        taken = granules([r for ranges in got for r in ranges])
        assert sorted(taken) == sorted(granules(wanted))
        store = await backend.crash(store)
        for one in wanted:
            await refuses_draw(store, one)
        await store.close()

    @in_loop
    async def test_draws_that_overlap_never_both_succeed(self, backend: Backend) -> None:
        rng = random.Random(4)
        async with opened(backend) as store:
            await add_block(store, 1, owner=B)

            async def attempt(one: GranuleRange) -> list[GranuleRange]:
                try:
                    await store.draw(B, [one])
                except KeyNotFoundError:
                    return []
                return [one]

            wanted = []
            for _ in range(150):
                start = rng.randrange(8, 120)
                wanted.append(GranuleRange(1, start, start + rng.randint(1, 8)))
            got = [r for ranges in await asyncio.gather(*map(attempt, wanted)) for r in ranges]
            taken = granules(got)
            assert len(taken) == len(set(taken))
            assert got


class HeartbeatContract:
    """Three nonces, each kept until the next."""

    @in_loop
    async def test_heartbeats_are_remembered(self, backend: Backend) -> None:
        store = await backend.open()
        assert await store.heartbeat(B) == HeartbeatRecord()
        await store.begin_heartbeat(B, "n1", None)
        store = await backend.crash(store)
        assert await store.heartbeat(B) == HeartbeatRecord(pending="n1")
        assert await store.accept_heartbeat(B, "p1", None) == HeartbeatRecord(pending="n1")
        assert await store.heartbeat(B) == HeartbeatRecord(pending="n1", heard="p1")
        expected = HeartbeatRecord("n2", "n1", "p1")
        assert await store.begin_heartbeat(B, "n2", "n1") == expected
        store = await backend.crash(store)
        assert await store.accept_heartbeat(B, "p2", "p1") == expected
        assert await store.heartbeat(B) == HeartbeatRecord("n2", "n1", "p2")
        assert await store.heartbeat(C) == HeartbeatRecord()
        await store.close()

    @in_loop
    async def test_an_answer_to_another_heartbeat_is_ignored(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for nonce, accepted in (("n1", "n0"), ("n2", None), ("n2", "n2"), ("n2", "n0")):
                expected = HeartbeatRecord(pending="n1")
                assert await store.begin_heartbeat(B, nonce, accepted) == expected
            for nonce, accepted in (("n2", "n1"), ("n2", "n1"), ("n3", "n1"), ("n3", None)):
                expected = HeartbeatRecord(pending="n2", acknowledged="n1")
                assert await store.begin_heartbeat(B, nonce, accepted) == expected
                assert await store.heartbeat(B) == expected

    @in_loop
    async def test_a_pending_heartbeat_stays_so_until_it_is_acknowledged(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        pending = HeartbeatRecord(pending="n1")
        for nonce in ("n1", "n1", "n2"):
            assert await store.begin_heartbeat(B, nonce, None) == pending
        store = await backend.crash(store)
        assert await store.begin_heartbeat(B, "n3", None) == pending
        assert await store.begin_heartbeat(B, "n3", "n1") == HeartbeatRecord("n3", "n1")
        await store.close()

    @in_loop
    async def test_a_heartbeat_that_does_not_follow_is_not_accepted(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.accept_heartbeat(B, "p1", None)
            await store.accept_heartbeat(B, "p2", "p1")
            latest = HeartbeatRecord(heard="p2")
            for nonce, acknowledged in (("p1", None), ("p9", None), ("p9", "p8")):
                assert await store.accept_heartbeat(B, nonce, acknowledged) == latest
                assert await store.heartbeat(B) == latest
            assert await store.accept_heartbeat(B, "p2", "p1") == latest
            assert await store.accept_heartbeat(B, "p3", "p2") == latest
            assert await store.heartbeat(B) == HeartbeatRecord(heard="p3")


class IncidentContract:
    """Alarms are kept."""

    @in_loop
    async def test_the_latest_alarms_are_returned_newest_first(self, backend: Backend) -> None:
        store = await backend.open()
        kinds = list(IncidentKind)
        alarms = [Incident(B, kinds[i % len(kinds)], 1e9 - i, f"block {i} é") for i in range(6)]
        for alarm in alarms:
            await store.record_incident(alarm)
        store = await backend.crash(store)
        assert await store.incidents(100) == alarms[::-1]
        assert await store.incidents(2) == [alarms[5], alarms[4]]
        assert await store.incidents(0) == []
        await store.close()


class LifeContract:
    """Nothing acknowledged is lost; a closed store does nothing."""

    @in_loop
    async def test_all_that_was_acknowledged_survives_a_crash_and_a_stop(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        for number in (1, 2, 3):
            await add_block(store, number, 500 + 8 * number, owner=B if number == 2 else A)
        await store.ingest(B, LINK, Epoch(1004), [some_key(700), some_key(9)])
        await store.open_proposal(B, proposal(4, ref(1004), ref(1004, 1)))
        await store.raise_peer_settled(B, 2)
        await claim(store, 7)
        await store.begin_heartbeat(B, "n", None)
        await store.note_expiry(B, Expiry(Frontier(2, {1: 9}), 1.5))
        await store.record_incident(Incident(B, IncidentKind.UNEQUAL_BLOCK, 1.5, "details"))
        before = await everything(store)
        for restart in (backend.crash, backend.reopen, backend.crash):
            store = await restart(store)
            assert await everything(store) == before
        await store.settle(B, equal(4, ref(1004), ref(1004, 1)), some_key(709))
        await store.close()

    @in_loop
    async def test_a_closed_store_refuses_and_may_be_closed_again(self, backend: Backend) -> None:
        store = await backend.open()
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.pairing(B)
        with pytest.raises(StoreUnavailableError):
            await store.ingest(B, LINK, Epoch(1), [some_key(8)])
        await store.close()

    @in_loop
    async def test_calls_under_way_are_finished_before_the_store_is_closed(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        under_way = [
            asyncio.create_task(store.ingest(B, LINK, Epoch(n), [some_key(8)])) for n in range(20)
        ]
        await asyncio.sleep(0)
        store = await backend.reopen(store)
        assert all(await asyncio.gather(*under_way))
        assert len(await store.inbox(B, LINK, None, 99)) == 20
        await store.close()


class StoreContract(
    InboxContract,
    BurnContract,
    PairingContract,
    ClaimContract,
    DrawContract,
    HeartbeatContract,
    IncidentContract,
    LifeContract,
):
    """All promises; a backend's tests derive from it."""
