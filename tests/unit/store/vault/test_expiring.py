"""Expiry in documents: finished after every fault, a little at a time, and nothing comes back."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from faulty_documents import Fault, FaultyDocuments
from kme.errors import KeyNotFoundError, PairingError
from kme.store.records import Claim, Expiry, Frontier, GranuleRange
from kme.store.vault import VaultStore, expiring, roomstate
from kme.store.vault.expirystate import FORGET_AFTER_S, ExpiryState
from kme.vault.documents import Document
from memory_documents import MemoryDocuments
from store_contract import A, B, add_block, claim, equal, in_loop, refuses_draw, some_key
from vault_story import DIGEST_KEY, WAYS, Story

DAY_S = FORGET_AFTER_S
SIZE = 128
ROOM = 8


async def opened(documents: MemoryDocuments) -> VaultStore:
    return await VaultStore.open(A, documents, DIGEST_KEY)


async def add_blocks(store: VaultStore, n_blocks: int, owner: str = B) -> None:
    for number in range(1, n_blocks + 1):
        await add_block(store, number, SIZE, A if owner == A else B)
    await store.raise_peer_settled(B, n_blocks)


async def expire(store: VaultStore, frontier: Frontier, now_s: float) -> int:
    await store.note_expiry(B, Expiry(frontier, now_s))
    return await store.expire(B, now_s)


def blocks_and_ledgers(documents: MemoryDocuments) -> list[str]:
    return [
        path for path in documents.paths() if path.split("/")[-3:-1] != ["inbox", B] and _is(path)
    ]


def _is(path: str) -> bool:
    return f"blocks/{B}/" in path or f"ledgers/{B}/" in path


class EndOfKeys(Story):
    """The peer's blocks are drawn and expire, one of ours is used up, and all is forgotten."""

    async def tell(self) -> None:
        for number, owner in ((1, B), (2, A), (3, B), (4, B)):
            verdict, key = equal(number, owner=owner), some_key(SIZE, number)
            await self.step(lambda s, v=verdict, k=key: s.settle(B, v, k))  # type: ignore[misc]
        await self.step(lambda s: s.raise_peer_settled(B, 4))
        await self.draw(GranuleRange(1, 8, 16))
        await self.draw(GranuleRange(3, 8, 10))
        mine = await self.step(lambda s: s.claim(B, "w", ROOM, ROOM))
        if mine is not None:  # else a killed process has it
            await self.step(lambda s: s.give_back(B, mine, mine.reserved.stop))
        await self.step(lambda s: s.close_claims())
        await self.expire(Frontier(5, {4: 12}), 100.0)
        await self.draw(GranuleRange(4, 12, 14))
        await self.expire(Frontier(5), 200.0)
        for now_s in (100 + DAY_S, 101 + DAY_S, 101 + 2 * DAY_S):
            await self.step(lambda s, t=now_s: s.expire(B, t))  # type: ignore[misc]

    async def expire(self, frontier: Frontier, now_s: float) -> None:
        await self.step(lambda s: s.note_expiry(B, Expiry(frontier, now_s)))
        await self.step(lambda s: s.expire(B, now_s))
        assert await self.step(lambda s: s.expiries(B)) == []


@pytest.mark.parametrize(("fault", "kills"), WAYS)
def test_whatever_write_fails_all_ends_and_is_forgotten(fault: Fault, kills: bool) -> None:
    async def main() -> None:
        for at in itertools.count(0):
            documents = MemoryDocuments(at)
            faulty = FaultyDocuments(documents, "", at, fault, kills)
            await EndOfKeys(faulty).tell()
            n_writes = faulty.n_writes
            left = blocks_and_ledgers(documents)
            await faulty.land()
            store = await opened(documents)
            for number, start in itertools.product(range(1, 5), range(8, 16)):
                await refuses_draw(store, GranuleRange(number, start, start + 1))
            assert await store.claim(B, "w", 1, 1) is None
            assert left == []
            record = await store.pairing(B)
            assert (record.floor_allocate, record.floor_draw) == (4, 4)
            if at >= n_writes:
                break
        assert at > 40

    asyncio.run(main())


class Counted(MemoryDocuments):
    """Documents that count what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def read(self, path: str) -> Document | None:
        self.asked.append(path)
        return await super().read(path)

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        self.asked.append(f"={path}")
        return await super().write(path, data, version)

    def taken(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


class TestWhatItCosts:
    @in_loop
    async def test_a_call_with_nothing_to_do_reads_two_documents(self) -> None:
        documents = Counted()
        store = await opened(documents)
        await add_blocks(store, 3)
        await expire(store, Frontier(3), 100.0)
        documents.taken()
        assert await store.expire(B, 101.0) == 0
        assert set(documents.taken()) == {f"pairs/{B}", f"expiry/{B}"}

    @in_loop
    async def test_a_frontier_is_what_was_settled_and_then_the_room(self) -> None:
        documents = Counted()
        store = await opened(documents)
        await add_blocks(store, 3, owner=A)
        documents.taken()
        assert await store.frontier(B) == Frontier(4, {1: 8, 2: 8, 3: 8})
        # In this order: what is settled by then has been put into the room before.
        assert documents.taken() == [f"pairs/{B}", f"room/{B}"]

    @in_loop
    async def test_what_is_done_is_not_looked_at_again(self) -> None:
        documents = Counted()
        store = await opened(documents)
        await add_blocks(store, 9)
        await expire(store, Frontier(7, {3: 9}), 100.0)
        documents.taken()
        assert await expire(store, Frontier(9, {3: 9, 8: 8}), 200.0) == ROOM
        ledgers = {path for path in documents.taken() if path.startswith("ledgers/")}
        assert ledgers == {f"ledgers/{B}/{number}" for number in (3, 7, 8)}

    @in_loop
    async def test_a_long_way_is_gone_in_several_calls(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expiring, "BATCH", 2)
        monkeypatch.setattr(expiring, "MAX_BATCHES", 2)
        documents = MemoryDocuments()
        store = await opened(documents)
        await add_blocks(store, 10)
        noted = Expiry(Frontier(10, {2: 8}), 100.0)
        await store.note_expiry(B, noted)
        n_expired = []
        while await store.expiries(B):
            assert await store.expiries(B) == [noted]
            n_expired.append(await store.expire(B, 100.0))
            store = await opened(documents)
        assert n_expired == [3 * ROOM, 4 * ROOM, ROOM]
        await store.draw(B, [GranuleRange(2, 8, 9), GranuleRange(10, 8, 9)])

    @in_loop
    async def test_all_is_forgotten_a_little_at_a_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        documents = MemoryDocuments()
        store = await opened(documents)
        await add_blocks(store, 10)
        await expire(store, Frontier(11), 100.0)
        monkeypatch.setattr(expiring, "BATCH", 2)
        monkeypatch.setattr(expiring, "MAX_BATCHES", 2)
        counts = []
        for _ in range(4):
            counts.append(len(blocks_and_ledgers(documents)))
            await store.expire(B, 100.0 + DAY_S)
        assert counts == [20, 12, 4, 0]

    @pytest.mark.parametrize("seed", range(4))
    @in_loop
    async def test_two_processes_that_expire_at_once_count_each_granule_once(
        self, seed: int
    ) -> None:
        documents = MemoryDocuments(seed)
        stores = [await opened(documents) for _ in range(2)]
        await add_blocks(stores[0], 12)
        await stores[0].note_expiry(B, Expiry(Frontier(13, {5: 10}), 100.0))
        counts = await asyncio.gather(*(store.expire(B, 100.0) for store in stores))
        assert sum(counts) == 11 * ROOM + 2
        await stores[0].expire(B, 101.0)
        assert await stores[1].expiries(B) == []
        await stores[1].draw(B, [GranuleRange(5, 10, 16)])


class TestFloors:
    @in_loop
    async def test_they_follow_the_lowest_number_that_lives_at_either_end(self) -> None:
        store = await opened(MemoryDocuments())
        for number in range(1, 9):
            await add_block(store, number, SIZE, A if number in {4, 7} else B)
        await store.raise_peer_settled(B, 8)

        async def floors(frontier: Frontier, now_s: float) -> tuple[int, int]:
            await expire(store, frontier, now_s)
            await store.expire(B, now_s)
            record = await store.pairing(B)
            return record.floor_allocate, record.floor_draw

        assert await floors(Frontier(9, {3: 8, 8: 8}), 1.0) == (2, 2)
        assert await floors(Frontier(9, {8: 8}), 1 + DAY_S) == (3, 3)
        mine = await claim(store, ROOM)
        # Used up, but its claim is open.
        assert await floors(Frontier(9, {8: 8}), 1 + 2 * DAY_S) == (3, 3)
        await store.give_back(B, mine, mine.reserved.stop)
        assert await floors(Frontier(9, {8: 8}), 2 + 2 * DAY_S) == (6, 6)
        assert (await store.claim(B, "w", 1, 1)) is not None
        await store.draw(B, [GranuleRange(8, 8, 9)])

    @in_loop
    async def test_they_stay_below_blocks_that_stand_in_a_page(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(roomstate, "PAGE_BLOCKS", 2)
        monkeypatch.setattr(roomstate, "MAX_FRONT", 3)
        store = await opened(MemoryDocuments())
        await store.raise_peer_settled(B, 99)
        for number in range(1, 10):
            await add_block(store, number, SIZE, A)
        while (got := await store.claim(B, "w", 1, ROOM)) is not None:
            frontier = await store.frontier(B)
            assert not frontier.is_behind(got.reserved.block_number, got.reserved.start)
            await store.give_back(B, got, got.reserved.stop)
            frontier = await store.frontier(B)
            assert frontier.is_behind(got.reserved.block_number, 15)
            await expire(store, Frontier(10), got.reserved.block_number * 2 * DAY_S)
            await store.expire(B, got.reserved.block_number * 2 * DAY_S)
            assert (await store.pairing(B)).floor_allocate == got.reserved.block_number
        assert (await store.pairing(B)).floor_allocate == 9

    @in_loop
    async def test_what_was_shut_by_a_floor_and_not_destroyed_at_once_is_destroyed_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(expiring, "BATCH", 2)
        monkeypatch.setattr(expiring, "MAX_BATCHES", 2)
        store = await opened(MemoryDocuments())
        await add_blocks(store, 7)
        await store.raise_floors(B, draw=6)
        assert [await store.block(B, n) is None for n in (4, 5, 6)] == [True, False, False]
        assert await store.expire(B, 1.0) == 2 * ROOM
        assert [await store.block(B, n) is None for n in (5, 6, 7)] == [True, True, False]


class Held:
    """One process's view of documents: it is paused before it creates a block."""

    def __init__(self, documents: MemoryDocuments, dies_behind: str = "none") -> None:
        self._documents = documents
        self._dies_behind = dies_behind
        self.is_here, self.may_go = asyncio.Event(), asyncio.Event()

    async def read(self, path: str) -> Document | None:
        return await self._documents.read(path)

    async def names(self, path: str) -> list[str]:
        return await self._documents.names(path)

    async def forget(self, path: str) -> None:
        await self._documents.forget(path)

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        if path.startswith(self._dies_behind):
            raise asyncio.CancelledError
        if version == 0 and _is(path):
            self.is_here.set()
            await self.may_go.wait()
        return await self._documents.write(path, data, version)


class TestAWorkerThatWasPaused:
    """It settles a number, is paused, and goes on when that number is long forgotten."""

    async def forgotten(self, dies_behind: str) -> tuple[MemoryDocuments, VaultStore, VaultStore]:
        """Let block 1 be settled twice; return two stores of which one has looked at its ledger."""
        documents = MemoryDocuments()
        held = Held(documents, dies_behind)
        paused = asyncio.create_task(
            (await VaultStore.open(A, held, DIGEST_KEY)).settle(
                B, equal(1, owner=B), some_key(SIZE, 1)
            )
        )
        await held.is_here.wait()
        store, onlooker = await opened(documents), await opened(documents)
        await add_blocks(store, 3)
        await refuses_draw(onlooker, GranuleRange(1, 8, 99))
        await store.draw(B, [GranuleRange(1, 8, 12)])
        await expire(store, Frontier(3), 100.0)
        await store.expire(B, 100.0 + DAY_S)
        assert blocks_and_ledgers(documents) == [f"blocks/{B}/3", f"ledgers/{B}/3"]
        held.may_go.set()
        await asyncio.wait([paused])
        assert paused.cancelled() or isinstance(paused.exception(), PairingError)
        return documents, store, onlooker

    @in_loop
    async def test_removes_what_it_brought_back(self) -> None:
        documents, store, onlooker = await self.forgotten("none")
        assert blocks_and_ledgers(documents) == [f"blocks/{B}/3", f"ledgers/{B}/3"]
        for one in (store, onlooker):
            with pytest.raises(KeyNotFoundError):
                await one.draw(B, [GranuleRange(1, 8, 12)])

    @in_loop
    async def test_and_killed_then_brings_back_nothing_that_can_be_drawn_or_claimed(self) -> None:
        documents, store, onlooker = await self.forgotten(f"pairs/{B}")
        assert f"ledgers/{B}/1" in documents.paths()
        for one in (store, onlooker, await opened(documents)):
            for start in (8, 12):
                await refuses_draw(one, GranuleRange(1, start, start + 4))
            assert await one.claim(B, "w", 1, 1) is None
        found = await documents.read(f"ledgers/{B}/1")
        assert found is not None
        assert found.version == 1
        # A number that is used up isn't even begun.
        n_paths = len(documents.paths())
        for number in (1, 2):
            with pytest.raises(PairingError):
                await store.settle(B, equal(number, owner=B), some_key(SIZE, number))
        assert len(documents.paths()) == n_paths


class TestBrokenDocuments:
    @in_loop
    async def test_a_ledger_that_cannot_be_read_does_not_stop_the_others(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        documents = MemoryDocuments()
        store = await opened(documents)
        await add_blocks(store, 3)
        await documents.write(f"ledgers/{B}/2", {"granules": "x"}, 1)
        assert await expire(store, Frontier(4), 100.0) == 2 * ROOM
        assert "a ledger cannot be read" in caplog.text
        assert await store.expiries(B) == []

    @in_loop
    async def test_a_ledger_that_a_killed_try_left_costs_no_own_block(self) -> None:
        documents = MemoryDocuments()
        store = await opened(documents)
        await add_block(store, 1, SIZE, A)
        await add_block(store, 2, SIZE, B)
        await store.raise_peer_settled(B, 2)
        left = await documents.read(f"ledgers/{B}/2")
        assert left is not None
        await documents.write(f"ledgers/{B}/1", left.data, 0)
        await expire(store, Frontier(3), 100.0)
        got = await store.claim(B, "w", 1, 1)
        assert isinstance(got, Claim)
        assert await store.block(B, 1) is not None
        await refuses_draw(store, GranuleRange(1, 8, 9))


class TestState:
    def test_a_document_is_read_back_as_it_was(self) -> None:
        noted = [Expiry(Frontier(9, {3: 8, 5: 20}), 12.5), Expiry(Frontier(12), 13.0)]
        state = ExpiryState(noted, 7, (3, 5), 2, 11.5, 1)
        assert ExpiryState.from_data(state.to_data()) == state
        assert ExpiryState.from_data({}) == ExpiryState()

    def test_who_was_overtaken_writes_nothing(self) -> None:
        before, now = ExpiryState(), ExpiryState(looked_up_to=5, left=(4,))
        now.looked(before, 3, [1], [])
        assert (now.looked_up_to, now.left) == (5, (4,))

    def test_floors_do_not_pass_on_while_something_waits_to_be_forgotten(self) -> None:
        state = ExpiryState()
        state.passes(5, 100.0)
        state.passes(9, 200.0)
        assert (state.passed, state.passed_unix_s) == (5, 100.0)
        assert not state.is_over(99.0 + DAY_S)
        assert state.is_over(100.0 + DAY_S)
        state.forget(99)
        assert state.forgotten == 5
        assert not state.is_over(100.0 + DAY_S)
