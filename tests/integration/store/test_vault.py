"""The store in a real Vault: all promises, over outages, narrow rights and several processes."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from kme.errors import ConflictError, KeyNotFoundError, StoreUnavailableError
from kme.ids import Epoch
from kme.store.records import Expiry, Frontier, GranuleRange, InboxEntry, Settlement, Verdict
from kme.store.vault import VaultStore
from kme.store.vault.cell import DocumentStore
from kme.store.vault.expirystate import FORGET_AFTER_S
from kme.vault.documents import Documents
from kme.vault.session import VaultSession
from memory_documents import MemoryDocuments
from real_vault import EVERYTHING, RealVault, open_session
from store_contract import (
    LINK,
    A,
    B,
    FloorStore,
    StoreContract,
    add_block,
    claim,
    equal,
    granules,
    proposal,
    ref,
    rooms,
    some_key,
)
from store_contract_expiry import EndOfKeysContract
from store_contract_grants import GrantContract
from store_contract_restore import RestoreContract
from vault_story import DIGEST_KEY


class OwnSessionStore(VaultStore):
    """A store whose session ends with it."""

    session: VaultSession

    async def close(self) -> None:
        await super().close()
        await self.session.close()


class VaultBackend:
    """A mount of its own for each store; a crash leaves what was written."""

    def __init__(self, vault: RealVault) -> None:
        self._vault = vault
        self._access = vault.access()
        self._mount = ""

    async def open(self) -> FloorStore:
        self._mount = await asyncio.to_thread(self._vault.fresh_mount)
        return await self._opened()

    async def reopen(self, store: FloorStore) -> FloorStore:
        await store.close()
        return await self._opened()

    async def crash(self, store: FloorStore) -> FloorStore:
        await cast("OwnSessionStore", store).session.close()
        return await self._opened()

    async def _opened(self) -> FloorStore:
        session = VaultSession(self._access)
        await session.open()
        store = await OwnSessionStore.open(A, Documents(session, self._mount), DIGEST_KEY)
        store.session = session
        return store


class TestVaultStore(StoreContract, EndOfKeysContract, GrantContract, RestoreContract):
    @pytest.fixture
    def backend(self, real_vault: RealVault) -> VaultBackend:
        return VaultBackend(real_vault)


@asynccontextmanager
async def store_of(
    vault: RealVault, mount: str, role: str = EVERYTHING
) -> AsyncIterator[VaultStore]:
    async with open_session(vault.access(role)) as session:
        yield await VaultStore.open(A, Documents(session, mount), DIGEST_KEY)


async def patiently(act: Callable[[], object]) -> None:
    """Run something that blocks while the loop goes on."""
    await asyncio.to_thread(act)


class TestNarrowRights:
    """The watcher may create inbox entries and not read them."""

    @pytest.fixture
    def mount(self, real_vault: RealVault) -> str:
        mount = real_vault.fresh_mount()
        real_vault.policy(
            "creates-only",
            f"""
            path "{mount}/data/inbox/*" {{ capabilities = ["create"] }}
            path "{mount}/metadata/inbox/*" {{ capabilities = ["read"] }}
            path "{mount}/data/index/*" {{ capabilities = ["create", "read", "update"] }}
            """,
        )
        real_vault.role("creates-only", "creates-only", ["creates-only"])
        return mount

    def test_are_enough_to_ingest_and_for_nothing_else(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def main() -> None:
            async with (
                store_of(real_vault, mount, "creates-only") as watcher,
                store_of(real_vault, mount) as rest,
            ):
                assert await watcher.ingest(B, LINK, Epoch(1), [some_key(600), some_key(9)])
                assert not await watcher.ingest(B, LINK, Epoch(1), [some_key(600)])
                for read in (watcher.final_keys(B, [ref(1)]), watcher.settle(B, equal(1), None)):
                    with pytest.raises(StoreUnavailableError, match="policy"):
                        await read
                keys = await rest.final_keys(B, [ref(1), ref(1, 1)])
                assert [key.key for key in keys] == [some_key(600), some_key(9)]
                await rest.settle(B, equal(1, ref(1), ref(1, 1)), some_key(609))
                assert not await watcher.ingest(B, LINK, Epoch(1), [some_key(600)])

        asyncio.run(main())

    def test_a_run_killed_between_entry_and_index_is_finished_by_the_next(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def main() -> None:
            async with open_session(real_vault.access()) as session:
                left = await VaultStore.open(A, Documents(session, mount), DIGEST_KEY)
                await left._inbox._create(B, ref(5), some_key(600))
                assert await left.inbox(B, LINK, None, 9) == []
                async with store_of(real_vault, mount, "creates-only") as watcher:
                    assert await watcher.ingest(B, LINK, Epoch(5), [some_key(600)])
                assert await left.inbox(B, LINK, None, 9) == [InboxEntry(ref(5), 600)]

        asyncio.run(main())


class TestSeveralProcesses:
    def test_claims_and_draws_from_both_never_meet(self, real_vault: RealVault) -> None:
        mount = real_vault.fresh_mount()
        wanted = [GranuleRange(n, 8 + 4 * k, 12 + 4 * k) for n in (1, 3, 5) for k in range(30)]

        async def drawn(store: VaultStore, rng: random.Random) -> list[GranuleRange]:
            got = []
            for one in rng.sample(wanted, len(wanted)):
                try:
                    await store.draw(B, [one])
                except KeyNotFoundError:
                    continue
                got.append(one)
            return got

        async def claimed(store: VaultStore, name: str) -> list[GranuleRange]:
            got = []
            while (more := await store.claim(B, name, 1, 9)) is not None:
                got.append(more.reserved)
            return got

        async def main() -> None:
            async with store_of(real_vault, mount) as one, store_of(real_vault, mount) as two:
                for number in range(1, 7):
                    await add_block(one, number, 1024, owner=B if number % 2 else A)
                await one.raise_peer_settled(B, 6)
                draws = [drawn(store, random.Random(i)) for i, store in enumerate([one, two] * 2)]
                claims = [claimed(store, f"w{i}") for i, store in enumerate([one, two] * 2)]
                got = await asyncio.gather(*draws, *claims)
            drawn_keys = [r for ranges in got[: len(draws)] for r in ranges]
            assert sorted(granules(drawn_keys)) == sorted(granules(wanted))
            taken = granules([r for ranges in got[len(draws) :] for r in ranges])
            assert len(taken) == len(set(taken)) == 3 * 120

        asyncio.run(main())


class TestOutage:
    def test_a_sealed_vault_refuses_and_all_goes_on_behind_it(self, real_vault: RealVault) -> None:
        mount = real_vault.fresh_mount()

        async def main() -> None:
            async with store_of(real_vault, mount) as store:
                await add_block(store, 1)
                await add_block(store, 2, owner=B)
                await store.raise_peer_settled(B, 2)
                kept = await claim(store, 5)
                await patiently(real_vault.seal)
                for call in (
                    store.claim(B, "w", 5, 5),
                    store.draw(B, [GranuleRange(2, 8, 9)]),
                    store.ingest(B, LINK, Epoch(3), [some_key(8)]),
                    store.pairing(B),
                    store.settle(B, Settlement(proposal(3), Verdict.VOID), None),
                ):
                    with pytest.raises(StoreUnavailableError):
                        await call
                await patiently(real_vault.unseal)
                assert (await claim(store, 5)).reserved == GranuleRange(1, 13, 18)
                assert kept.reserved == GranuleRange(1, 8, 13)
                await store.draw(B, [GranuleRange(2, 9, 10)])
                assert await store.ingest(B, LINK, Epoch(3), [some_key(8)])
                await store.settle(B, Settlement(proposal(3), Verdict.VOID), None)
                assert await rooms(store) == {110: 1}

        asyncio.run(main())

    def test_claims_and_draws_under_load_survive_a_power_cut(self, real_vault: RealVault) -> None:
        mount = real_vault.fresh_mount()
        wanted = [GranuleRange(n, 8 + 2 * k, 10 + 2 * k) for n in (1, 2) for k in range(200)]

        async def work(
            store: VaultStore, got: list[GranuleRange], taken: list[GranuleRange]
        ) -> None:
            for one in wanted:
                try:
                    await store.draw(B, [one])
                    got.append(one)
                    if (more := await store.claim(B, "w", 1, 3)) is not None:
                        taken.append(more.reserved)
                except StoreUnavailableError:
                    await asyncio.sleep(0.1)
                except KeyNotFoundError:
                    continue

        async def main() -> None:
            got: list[GranuleRange] = []
            taken: list[GranuleRange] = []
            async with store_of(real_vault, mount) as one, store_of(real_vault, mount) as two:
                for number in (1, 2, 3):
                    await add_block(one, number, 4096, owner=A if number == 3 else B)
                await one.raise_peer_settled(B, 3)
                working = [asyncio.create_task(work(s, got, taken)) for s in (one, two)]
                await asyncio.sleep(0.3)
                await patiently(real_vault.restart)
                await asyncio.gather(*working)
                for drawn in got:
                    with pytest.raises(KeyNotFoundError):
                        await two.draw(B, [drawn])
            assert len(granules(got)) == len(set(granules(got)))
            assert len(granules(taken)) == len(set(granules(taken)))
            assert len(got) > 100

        asyncio.run(main())


class TestForgetting:
    """A day after the floors have passed them, blocks leave nothing behind."""

    def test_what_is_forgotten_is_gone_and_cannot_be_drawn_if_it_comes_back(
        self, real_vault: RealVault
    ) -> None:
        mount = real_vault.fresh_mount()

        async def main() -> None:
            async with (
                open_session(real_vault.access()) as session,
                store_of(real_vault, mount) as one,
                store_of(real_vault, mount) as two,
            ):
                documents = Documents(session, mount)
                for number in (1, 2, 3):
                    await add_block(one, number, owner=A if number == 2 else B)
                await one.raise_peer_settled(B, 3)
                fresh = await documents.read(f"ledgers/{B}/1")
                assert fresh is not None
                await two.draw(B, [GranuleRange(1, 8, 9), GranuleRange(3, 8, 9)])
                mine = await claim(one, 120)
                await one.give_back(B, mine, mine.reserved.stop)
                await one.note_expiry(B, Expiry(Frontier(4, {3: 8}), 100.0))
                assert await one.expire(B, 100.0) == 119
                assert await documents.names(f"blocks/{B}") == ["1", "2", "3"]
                assert await one.expire(B, 100.0 + FORGET_AFTER_S) == 0
                for kind in ("blocks", "ledgers"):
                    assert await documents.names(f"{kind}/{B}") == ["3"]
                # A worker that was paused all the time creates it again.
                await documents.write(f"ledgers/{B}/1", fresh.data, 0)
                async with store_of(real_vault, mount) as three:
                    for store in (one, two, three):
                        with pytest.raises(KeyNotFoundError):
                            await store.draw(B, [GranuleRange(1, 8, 9)])
                    await three.draw(B, [GranuleRange(3, 9, 10)])

        asyncio.run(main())


class TestDocumentsInMemory:
    """What the unit tests use instead of Vault behaves as Vault does."""

    def test_both_answer_alike_whatever_is_asked(self, real_vault: RealVault) -> None:
        mount = real_vault.fresh_mount()
        rng = random.Random(7)

        async def ask(documents: DocumentStore, what: int, path: str, version: int) -> object:
            try:
                match what:
                    case 0:
                        return await documents.write(
                            path, {"at": version, "list": [1, None]}, version
                        )
                    case 1:
                        found = await documents.read(path)
                        return found and (dict(found.data), found.version)
                    case 2:
                        return await documents.names(path.rsplit("/", 1)[0])
                    case _:
                        await documents.forget(path)
                        return None
            except ConflictError:
                return ConflictError

        async def main() -> None:
            async with open_session(real_vault.access()) as session:
                both = (Documents(session, mount), MemoryDocuments())
                paths = ["a/b", "a/c", "a/b/d", "a/b/e", "f/g"]
                for _ in range(300):
                    what = rng.choice([0, 0, 0, 0, 1, 2, 3])
                    question = what, rng.choice(paths), rng.randrange(3)
                    first, second = [await ask(one, *question) for one in both]
                    assert first == second, question

        asyncio.run(main())
