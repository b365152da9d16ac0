"""The store on documents: all promises, under every fault, in pages, by two processes at once."""

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from faulty_documents import Fault, FaultyDocuments
from kme.errors import IntegrityError, KeyNotFoundError, SettingsError, StoreUnavailableError
from kme.ids import Epoch
from kme.secret import Secret
from kme.store.records import GranuleRange, HeartbeatRecord, Settlement, Verdict
from kme.store.vault import VaultStore, roomstate
from kme.vault.documents import Document
from memory_documents import MemoryDocuments
from store_contract import (
    LINK,
    A,
    B,
    FloorStore,
    Recount,
    StoreContract,
    add_block,
    claim,
    equal,
    granules,
    in_loop,
    proposal,
    ref,
    rooms,
    some_key,
)
from store_contract_expiry import EndOfKeysContract
from store_contract_grants import GrantContract
from store_contract_restore import RestoreContract
from vault_story import DIGEST_KEY, WAYS, live_through


class DocumentsBackend:
    """Documents in memory; a crash leaves what was written."""

    def __init__(self) -> None:
        self._seeds = itertools.count()
        self._documents = MemoryDocuments()

    async def open(self) -> FloorStore:
        self._documents = MemoryDocuments(next(self._seeds))
        return await self._opened()

    async def reopen(self, store: FloorStore) -> FloorStore:
        await store.close()
        return await self._opened()

    async def crash(self, store: FloorStore) -> FloorStore:
        return await self._opened()

    async def _opened(self) -> FloorStore:
        return await VaultStore.open(A, self._documents, DIGEST_KEY)


class TestVaultStore(StoreContract, EndOfKeysContract, GrantContract, RestoreContract):
    @pytest.fixture
    def backend(self) -> DocumentsBackend:
        return DocumentsBackend()


@pytest.mark.parametrize(("fault", "kills"), WAYS)
def test_whatever_write_fails_nothing_is_doubled_or_lost(fault: Fault, kills: bool) -> None:
    async def main() -> None:
        for at in itertools.count(0):
            documents = MemoryDocuments(at)
            if at >= await live_through(documents, "", at, fault, kills=kills):
                break
        assert at > 30

    asyncio.run(main())


async def two_stores(seed: int = 0) -> tuple[VaultStore, VaultStore]:
    documents = MemoryDocuments(seed)
    return (
        await VaultStore.open(A, documents, DIGEST_KEY),
        await VaultStore.open(A, documents, DIGEST_KEY),
    )


class TestTwoProcesses:
    @pytest.mark.parametrize("seed", range(4))
    @in_loop
    async def test_no_granule_is_claimed_twice(self, seed: int) -> None:
        stores = await two_stores(seed)
        for number in range(1, 8):
            await add_block(stores[number % 2], number, 800)
        await stores[0].raise_peer_settled(B, 7)
        total = sum(room * n for room, n in (await rooms(stores[1])).items())

        async def worker(name: str, store: VaultStore) -> list[GranuleRange]:
            rng, used = random.Random(name), []
            while (got := await store.claim(B, name, 1, rng.randint(1, 20))) is not None:
                middle = rng.randint(got.reserved.start, got.reserved.stop)
                await store.give_back(B, got, middle)
                if middle > got.reserved.start:
                    used.append(GranuleRange(got.reserved.block_number, got.reserved.start, middle))
            return used

        got = await asyncio.gather(*(worker(f"{seed}-{i}", stores[i % 2]) for i in range(6)))
        taken = granules([r for ranges in got for r in ranges])
        assert len(taken) == len(set(taken))
        assert len(taken) > total // 2
        assert await stores[0].close_claims() == 0

    @pytest.mark.parametrize("seed", range(4))
    @in_loop
    async def test_of_many_that_draw_the_same_keys_each_is_got_at_most_once(
        self, seed: int
    ) -> None:
        stores, rng = await two_stores(seed), random.Random(seed)
        for number in (1, 2, 3):
            await add_block(stores[0], number, owner=B)
        wanted = [GranuleRange(n, 8 + 4 * k, 12 + 4 * k) for n in (1, 2, 3) for k in range(30)]

        async def attempt(store: VaultStore, *ranges: GranuleRange) -> list[GranuleRange]:
            try:
                await store.draw(B, ranges)
            except KeyNotFoundError:
                return []
            return list(ranges)

        tries = [
            attempt(rng.choice(stores), *rng.sample(wanted, rng.randint(1, 3))) for _ in range(200)
        ]
        got = [r for ranges in await asyncio.gather(*tries) for r in ranges]
        assert len(granules(got)) == len(set(granules(got)))
        assert len(got) > 30

    @pytest.mark.parametrize("seed", range(6))
    @in_loop
    async def test_an_epoch_comes_in_once_while_buckets_fill_and_empty(self, seed: int) -> None:
        stores, rng = await two_stores(seed), random.Random(seed)
        numbers = itertools.count(1)
        epochs = [bucket * 4096 + k for bucket in range(3) for k in range(6)]
        rng.shuffle(epochs)

        async def bring(epoch: int) -> int:
            new = [await one.ingest(B, LINK, Epoch(epoch), [some_key(64)]) for one in stores]
            return sum(new)

        async def settle() -> None:
            for _ in range(8):
                listed = await stores[1].inbox(B, LINK, None, 3)
                if listed:
                    refs = tuple(entry.ref for entry in listed)
                    verdict = Settlement(proposal(next(numbers), *refs), Verdict.VOID)
                    await stores[1].settle(B, verdict, None)
                await asyncio.sleep(0)

        *counts, _ = await asyncio.gather(*map(bring, epochs), settle())
        assert counts == [1] * len(epochs)
        left = {entry.ref.epoch.number for entry in await stores[0].inbox(B, LINK, None, 99)}
        gone = [epoch for epoch in epochs if epoch not in left]
        record = await stores[0].pairing(B)
        assert record.highest == next(numbers) - 1
        assert len(gone) <= 24
        for epoch in epochs:
            assert not await stores[0].ingest(B, LINK, Epoch(epoch), [some_key(64)])
        # What is settled one by one from here on is all that is left: nothing hides.
        while listed := await stores[0].inbox(B, LINK, None, 1):
            void = Settlement(proposal(next(numbers), listed[0].ref), Verdict.VOID)
            await stores[0].settle(B, void, None)
            left.remove(listed[0].ref.epoch.number)
        assert not left


class TestPages:
    """A large stock stands in pages; here they are small, so that few blocks do."""

    @pytest.fixture(autouse=True)
    def small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(roomstate, "PAGE_BLOCKS", 2)
        monkeypatch.setattr(roomstate, "MAX_FRONT", 3)

    @pytest.mark.parametrize("seed", range(20))
    @in_loop
    async def test_stock_equals_a_recount_after_anything_that_happened(self, seed: int) -> None:
        store, _ = await two_stores(seed)
        recount = Recount(store, random.Random(seed))
        for _ in range(200):
            await recount.step()
            assert await rooms(store) == recount.rooms()

    @in_loop
    async def test_all_of_a_large_stock_is_claimed_once_by_two_processes(self) -> None:
        stores = await two_stores()
        await stores[0].raise_peer_settled(B, 99)
        for number in range(1, 30):
            await add_block(stores[0], number, 128)

        async def worker(store: VaultStore) -> list[GranuleRange]:
            ranges = []
            while (got := await store.claim(B, "w", 5, 5)) is not None:
                ranges.append(got.reserved)
            return ranges

        got = await asyncio.gather(*(worker(store) for store in (*stores, *stores)))
        taken = granules([r for ranges in got for r in ranges])
        assert len(taken) == len(set(taken)) == 29 * 5

    @in_loop
    async def test_a_page_that_is_gone_is_an_alarm(self) -> None:
        documents = MemoryDocuments()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await store.raise_peer_settled(B, 99)
        for number in range(1, 5):
            await add_block(store, number, 128 if number < 4 else 512)
        (page,) = [path for path in documents.paths() if path.startswith("room/kme-b/")]
        await documents.forget(page)
        with pytest.raises(IntegrityError, match=page):
            await store.claim(B, "w", 50, 50)


class TestWhatWasUsedUp:
    @in_loop
    async def test_an_own_block_is_destroyed_when_its_last_claim_closes(self) -> None:
        store, _ = await two_stores()
        await add_block(store, 1, 512)
        await store.raise_peer_settled(B, 1)
        got = await claim(store, 56)
        assert await store.block(B, 1) is not None
        await store.give_back(B, got, 64)
        assert await store.block(B, 1) is None

    @in_loop
    async def test_a_peers_block_is_destroyed_with_its_last_granule(self) -> None:
        store, other = await two_stores()
        await add_block(store, 1, 512, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 40)])
        assert await other.block(B, 1) is not None
        await other.draw(B, [GranuleRange(1, 40, 64)])
        assert await store.block(B, 1) is None

    @in_loop
    async def test_a_block_of_a_pair_with_itself_lives_until_both_ends_are_done(self) -> None:
        store, _ = await two_stores()
        await add_block(store, 1, 512, peer=A)
        await store.raise_peer_settled(A, 1)
        got = await claim(store, 56, peer=A)
        await store.give_back(A, got, 64)
        assert await store.block(A, 1) is not None
        await store.draw(A, [got.reserved])
        assert await store.block(A, 1) is None


class Counted(MemoryDocuments):
    """Documents that count what is asked, and may be put back."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def read(self, path: str) -> Document | None:
        self.asked.append("read")
        return await super().read(path)

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        self.asked.append("write")
        return await super().write(path, data, version)

    def taken(self) -> list[str]:
        """Return what was asked since the last time."""
        asked, self.asked = self.asked, []
        return asked

    def put_back(self, kept: dict[str, tuple[str, int]]) -> None:
        """Be what was there at an earlier time."""
        self._kept = kept

    def copy(self) -> dict[str, tuple[str, int]]:
        return dict(self._kept)


class TestHeartbeats:
    """Each costs one write, which proves what it was judged on."""

    @in_loop
    async def test_each_step_is_one_write(self) -> None:
        documents = Counted()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await store.begin_heartbeat(B, "n1", None)
        documents.taken()
        await store.begin_heartbeat(B, "n1", None)
        await store.begin_heartbeat(B, "n2", "n1")
        await store.accept_heartbeat(B, "p1", None)
        await store.accept_heartbeat(B, "p2", "p1")
        assert documents.taken() == ["write"] * 4

    @in_loop
    async def test_a_refusal_is_judged_on_a_fresh_reading(self) -> None:
        documents = Counted()
        one, other = [await VaultStore.open(A, documents, DIGEST_KEY) for _ in range(2)]
        await one.accept_heartbeat(B, "p1", None)
        await other.accept_heartbeat(B, "p2", "p1")
        await one.accept_heartbeat(B, "p3", "p2")
        assert (await one.heartbeat(B)).heard == "p3"
        documents.taken()
        assert (await one.accept_heartbeat(B, "p9", "p8")).heard == "p3"
        assert documents.taken() == ["read"]

    @in_loop
    async def test_a_store_that_is_put_back_under_a_running_process_shows(self) -> None:
        documents = Counted()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await store.begin_heartbeat(B, "n1", None)
        await store.accept_heartbeat(B, "p1", None)
        backup = documents.copy()
        await store.begin_heartbeat(B, "n2", "n1")
        await store.accept_heartbeat(B, "p2", "p1")
        documents.put_back(backup)
        assert await store.begin_heartbeat(B, "n3", "n2") == HeartbeatRecord("n1", None, "p1")
        assert (await store.accept_heartbeat(B, "p3", "p2")).heard == "p1"


class TestOneLook:
    @in_loop
    async def test_who_asks_at_the_same_moment_shares_a_request(self) -> None:
        documents = Counted()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await add_block(store, 1)
        documents.taken()
        await asyncio.gather(store.pairing(B), store.stock(B))
        assert documents.taken() == ["read"] * 2

    @in_loop
    async def test_who_asks_later_sees_what_was_written_before(self) -> None:
        store, other = await two_stores()
        await add_block(store, 1, 1024)
        await store.raise_peer_settled(B, 1)
        for n_left in range(119, 100, -1):
            early = asyncio.create_task(store.stock(B))
            await asyncio.sleep(0)
            await other.claim(B, "w", 1, 1)
            assert (await store.stock(B)).n_bytes == 8 * n_left
            await early


class TestWhatAnotherTryLeft:
    @pytest.mark.parametrize("owner", [A, B])
    @in_loop
    async def test_a_number_that_was_not_settled_may_get_another_content(self, owner: str) -> None:
        documents, before = MemoryDocuments(), B if owner == A else A
        for at in range(3, 20):
            faulty = FaultyDocuments(documents, f"{at}/", at, Fault.LOST, kills=True)
            store = await VaultStore.open(A, faulty, DIGEST_KEY)
            await store.ingest(B, LINK, Epoch(1), [some_key(600)])
            try:
                await store.settle(B, equal(1, ref(1), owner=before), some_key(600))
            except StoreUnavailableError:
                pass
            else:
                break
            faulty.revive()
            store = await VaultStore.open(A, faulty, DIGEST_KEY)
            if (await store.pairing(B)).last is not None:
                continue
            other = Settlement(
                proposal(1, ref(2), owner=B if owner == "kme-b" else A), Verdict.EQUAL
            )
            await store.settle(B, other, some_key(900, 2))
            await store.raise_peer_settled(B, 1)
            block = await store.block(B, 1)
            assert block is not None
            assert block.key == some_key(900, 2)
            # An own block has no ledger, whatever the try before has left.
            drawn = store.draw(B, [GranuleRange(1, 8, 112)])
            if owner == "kme-a":
                with pytest.raises(KeyNotFoundError):
                    await drawn
            else:
                await drawn
            assert await rooms(store) == ({104: 1} if owner == "kme-a" else {})
        assert at > 6


class TestTampering:
    @pytest.mark.parametrize("member", ["key", "digest"])
    @in_loop
    async def test_bytes_that_do_not_fit_their_digest_are_refused(self, member: str) -> None:
        documents = MemoryDocuments()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await store.ingest(B, LINK, Epoch(1), [some_key(600)])
        await add_block(store, 2)
        for path in ("inbox/kme-b/link/00000001-0", "blocks/kme-b/2"):
            found = await documents.read(path)
            assert found is not None
            changed = {**found.data, member: found.data[member][4:] + found.data[member][:4]}
            await documents.write(path, changed, found.version)
        with pytest.raises(IntegrityError, match="inbox/kme-b/link/00000001-0"):
            await store.final_keys(B, [ref(1)])
        with pytest.raises(IntegrityError, match="blocks/kme-b/2"):
            await store.block(B, 2)

    @in_loop
    async def test_another_sites_digest_key_reads_nothing(self) -> None:
        documents = MemoryDocuments()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await add_block(store, 2)
        other = await VaultStore.open(A, documents, Secret(bytes(32)))
        with pytest.raises(IntegrityError):
            await other.block(B, 2)

    @in_loop
    async def test_a_block_moved_to_another_number_is_refused(self) -> None:
        documents = MemoryDocuments()
        store = await VaultStore.open(A, documents, DIGEST_KEY)
        await add_block(store, 2)
        found = await documents.read("blocks/kme-b/2")
        assert found is not None
        await documents.write("blocks/kme-b/3", found.data, 0)
        with pytest.raises(IntegrityError, match="blocks/kme-b/3"):
            await store.block(B, 3)


def test_a_digest_key_of_another_length_is_refused() -> None:
    with pytest.raises(SettingsError, match="32 bytes"):
        asyncio.run(VaultStore.open(A, MemoryDocuments(), Secret(b"short")))
