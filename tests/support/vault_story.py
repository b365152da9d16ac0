"""All that a KME asks of its store in Vault, with one write failing, and what holds then."""

import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import pytest

from faulty_documents import Fault, FaultyDocuments
from kme.errors import KeyNotFoundError, StoreUnavailableError
from kme.ids import Epoch, KmeId
from kme.secret import Secret
from kme.store.records import (
    Claim,
    GranuleRange,
    HeartbeatRecord,
    InboxEntry,
    Settlement,
    Verdict,
)
from kme.store.restore import RestoreAgreement
from kme.store.vault import VaultStore
from kme.store.vault.cell import DocumentStore
from store_contract import LINK, A, B, C, equal, granules, proposal, ref, room_of, some_key

DIGEST_KEY: Final = Secret(bytes(range(32)))

WAYS: Final = [(fault, kills) for fault in Fault for kills in (False, True)]
"""How a write may fail."""

_T = TypeVar("_T")


class Story:
    """All that a KME does, each step repeated until it succeeds, as callers do."""

    def __init__(self, documents: FaultyDocuments) -> None:
        self._documents = documents
        self._store: VaultStore | None = None
        self.got: list[GranuleRange] = []
        self.n_failed = 0

    async def store(self) -> VaultStore:
        if self._store is None:
            self._store = await VaultStore.open(A, self._documents, DIGEST_KEY)
        return self._store

    async def step(self, act: Callable[[VaultStore], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await act(await self.store())
            except StoreUnavailableError:
                self.n_failed += 1
                if self._documents.is_dead:
                    self._documents.revive()
                    self._store = None

    async def tell(self) -> None:
        await self.bring()
        await self.pair()
        await self.supply()
        await self.burn()
        await self.restore()

    async def ingest(self, epoch: int, *parts: Secret, peer: KmeId = B) -> bool:
        return await self.step(lambda s: s.ingest(peer, LINK, Epoch(epoch), parts))

    async def bring(self) -> None:
        for epoch in (1, 3, 4, 5):
            await self.ingest(epoch, some_key(600, epoch))
        await self.ingest(5000, some_key(300, 20), some_key(400, 21))
        listed = [entry.ref for entry in await self.step(lambda s: s.inbox(B, LINK, None, 9))]
        assert listed == [ref(1), ref(3), ref(4), ref(5), ref(5000), ref(5000, 1)]
        for key in await self.step(lambda s: s.final_keys(B, listed)):
            seed = 20 + key.ref.part if key.ref.epoch.number == 5000 else key.ref.epoch.number
            assert key.key == some_key(len(key.key), seed)

    async def pair(self) -> None:
        entries = (ref(1), ref(5000), ref(5000, 1))
        await self.step(lambda s: s.open_proposal(B, proposal(1, *entries)))
        await self.step(lambda s: s.settle(B, equal(1, *entries), some_key(1300, 1)))
        await self.never_again(1, 5000)
        void = Settlement(proposal(2, ref(3), ref(99)), Verdict.VOID)
        await self.step(lambda s: s.settle(B, void, None))
        await self.never_again(1, 3, 5000)
        await self.step(lambda s: s.settle(B, equal(3, ref(4), owner=B), some_key(600, 3)))
        await self.step(lambda s: s.settle(B, equal(4, ref(5), owner=B), some_key(600, 4)))
        assert await self.step(lambda s: s.inbox(B, LINK, None, 9)) == []
        await self.step(lambda s: s.raise_peer_settled(B, 4))
        record = await self.step(lambda s: s.pairing(B))
        assert (record.highest, record.peer_settled, record.open_proposal) == (4, 4, None)
        assert (await self.step(lambda s: s.stock(B))).blocks_by_room == {room_of(1300): 1}

    async def never_again(self, *epochs: int) -> None:
        left = await self.step(lambda s: s.inbox(B, LINK, None, 9))
        assert not {entry.ref.epoch.number for entry in left} & set(epochs)
        refs = [ref(epoch, part) for epoch in epochs for part in (0, 1)]
        assert await self.step(lambda s: s.held(B, refs)) == []
        assert await self.step(lambda s: s.final_keys(B, refs)) == []
        for epoch in epochs:
            assert not await self.ingest(epoch, some_key(8))

    async def supply(self) -> None:
        first = await self.claim(30)
        second = await self.claim(40)
        await self.step(lambda s: s.give_back(B, second, second.reserved.start + 10))
        self.got[-1] = GranuleRange(1, second.reserved.start, second.reserved.start + 10)
        third = await self.claim(50)
        await self.step(lambda s: s.give_back(B, first, first.reserved.stop))
        await self.step(lambda s: s.give_back(B, third, third.reserved.stop))
        await self.draw(GranuleRange(3, 8, 20))
        await self.draw(GranuleRange(3, 20, 40), GranuleRange(4, 8, 20))
        block = await self.step(lambda s: s.block(B, 3))
        assert block is not None
        assert block.key == some_key(600, 3)
        await self.draw(GranuleRange(3, 40, 75))
        await self.step(lambda s: s.begin_heartbeat(B, "n1", None))
        await self.step(lambda s: s.begin_heartbeat(B, "n2", "n1"))
        await self.step(lambda s: s.accept_heartbeat(B, "p1", None))
        await self.step(lambda s: s.close_claims())
        assert await self.step(lambda s: s.heartbeat(B)) == HeartbeatRecord("n2", "n1", "p1")

    async def claim(self, n_granules: int) -> Claim:
        got = await self.step(lambda s: s.claim(B, "w", n_granules, n_granules))
        assert got is not None
        self.got.append(got.reserved)
        return got

    async def draw(self, *ranges: GranuleRange) -> None:
        n_failed = self.n_failed
        try:
            await self.step(lambda s: s.draw(B, ranges))
        except KeyNotFoundError:
            assert self.n_failed > n_failed, "refused though nothing failed"

    async def burn(self) -> None:
        for epoch in (7, 8):
            await self.ingest(epoch, some_key(600))
        await self.step(lambda s: s.open_proposal(B, proposal(9, ref(7))))
        await self.step(lambda s: s.burn_inbox(B))
        assert await self.step(lambda s: s.inbox(B, LINK, None, 9)) == [InboxEntry(ref(7), 600)]
        await self.step(lambda s: s.settle(B, equal(9, ref(7)), some_key(600, 9)))

    async def restore(self) -> None:
        """Accept a restore of another pair, then be restored and agree on it."""
        await self.step(lambda s: s.ingest(C, LINK, Epoch(1), [some_key(600)]))
        await self.step(lambda s: s.open_proposal(C, proposal(2, ref(1))))
        await self.step(lambda s: s.accept_restore(C, "n1", 4))
        await self.step(lambda s: s.mark_restored("1" * 32))
        await self.step(lambda s: s.ingest(C, LINK, Epoch(2), [some_key(600)]))
        agreement = RestoreAgreement("1" * 32, "n2", "p2", 6, {LINK: Epoch(9)})
        await self.step(lambda s: s.agree_restore(C, agreement))
        assert await self.step(lambda s: s.restoring(C)) is None
        record = await self.step(lambda s: s.pairing(C))
        assert (record.highest, record.floor_allocate, record.floor_draw) == (6, 6, 6)
        assert record.last == Settlement(proposal(2, ref(1)), Verdict.VOID)
        assert await self.step(lambda s: s.heartbeat(C)) == HeartbeatRecord(None, "n2", "p2")
        assert await self.step(lambda s: s.inbox(C, LINK, None, 9)) == []
        for epoch in (1, 2, 9):
            assert not await self.ingest(epoch, some_key(8), peer=C)

    async def check(self, documents: FaultyDocuments) -> None:
        """Check what must hold in the end, whatever failed, as a new process sees it."""
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        taken = granules(self.got)
        assert len(taken) == len(set(taken)), "a granule was claimed twice"
        await store.close_claims()
        # Whoever comes next gets only what nobody has.
        rest = []
        while (more := await store.claim(B, "next", 1, 1000)) is not None:
            rest += granules([more.reserved])
        assert not set(rest) & set(taken)
        # A tail with a claim behind it is burnt, and the claim of a killed process with it.
        n_burnt = 40 + (50 if self._documents.kills else 0)
        assert len(rest) + len(taken) >= room_of(1300) - n_burnt, "a lost claim is lost for ever"
        for used in (GranuleRange(3, 8, 20), GranuleRange(3, 20, 40), GranuleRange(3, 40, 75)):
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [used])
        # Of a draw over two blocks that failed between them, only the first part is burnt.
        with contextlib.suppress(KeyNotFoundError):
            await store.draw(B, [GranuleRange(4, 8, 20)])
        assert await store.block(B, 2) is None
        with pytest.raises(KeyNotFoundError):
            await store.draw(B, [GranuleRange(2, 8, 9)])
        assert await store.inbox(B, LINK, None, 9) == []
        await store.settle(B, Settlement(proposal(10, ref(98)), Verdict.VOID), None)
        for epoch, part in ((1, 0), (3, 0), (4, 0), (5, 0), (5000, 0), (5000, 1), (7, 0), (8, 0)):
            found = await documents.read(f"inbox/{B}/{LINK}/{epoch:08x}-{part}")
            assert found is not None
            assert found.data == {}, f"the bytes of epoch {epoch} are still there"
        assert await store.block(B, 3) is None
        await store.close()


async def live_through(
    documents: DocumentStore, prefix: str, at: int, fault: Fault, *, kills: bool
) -> int:
    """Tell the story with one fault, and check what is left; return how many writes it took."""
    faulty = FaultyDocuments(documents, prefix, at, fault, kills)
    story = Story(faulty)
    await story.tell()
    n_writes = faulty.n_writes
    await faulty.land()
    await story.check(FaultyDocuments(documents, prefix))
    return n_writes


async def live_through_some(documents: DocumentStore, stride: int) -> int:
    """Let one of `stride` writes fail, the ways in turn; return how many writes there are."""
    for at in itertools.count(0, stride):
        fault, kills = WAYS[at % len(WAYS)]
        if at >= await live_through(documents, f"{at}/", at, fault, kills=kills):
            return at
    raise AssertionError
