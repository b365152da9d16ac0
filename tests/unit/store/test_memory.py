"""The store in dictionaries: all promises, and what simulations need beyond them."""

import asyncio

import pytest

import store_contract
import store_contract_expiry
from kme.errors import StoreUnavailableError
from kme.ids import Epoch
from kme.store.memory import MemoryStore
from kme.store.records import GranuleRange
from store_contract import LINK, A, B, FloorStore, StoreContract, add_block, everything, some_key
from store_contract_expiry import EndOfKeysContract
from store_contract_grants import GrantContract
from store_contract_restore import RestoreContract


class MemoryBackend:
    """The next process finds the state of the last one."""

    async def open(self) -> FloorStore:
        return MemoryStore(A)

    async def reopen(self, store: FloorStore) -> FloorStore:
        await store.close()
        return await self.crash(store)

    async def crash(self, store: FloorStore) -> FloorStore:
        assert isinstance(store, MemoryStore)
        return store.reopened()


class TestMemoryStore(StoreContract, EndOfKeysContract, GrantContract, RestoreContract):
    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()


def test_what_waits_before_its_step_at_a_crash_is_never_written() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        async def pause(step: str) -> None:
            if step == "before draw":
                await gate.wait()

        store = MemoryStore(A, pause)
        await add_block(store, 1, owner=B)
        drawing = asyncio.create_task(store.draw(B, [GranuleRange(1, 8, 9)]))
        await asyncio.sleep(0)
        next_store = store.reopened()
        gate.set()
        with pytest.raises(StoreUnavailableError):
            await drawing
        await next_store.draw(B, [GranuleRange(1, 8, 9)])

    asyncio.run(story())


def test_what_dies_after_its_step_is_written() -> None:
    class DiedError(Exception):
        pass

    async def story() -> None:
        async def pause(step: str) -> None:
            if step == "after ingest":
                raise DiedError

        store = MemoryStore(A, pause)
        with pytest.raises(DiedError):
            await store.ingest(B, LINK, Epoch(1), [some_key(8)])
        assert len(await store.inbox(B, LINK, None, 9)) == 1

    asyncio.run(story())


def test_a_backup_is_not_changed_by_what_happens_later() -> None:
    async def story() -> None:
        store = MemoryStore(A)
        await add_block(store, 1, owner=B)
        await store.ingest(B, LINK, Epoch(5), [some_key(600)])
        before = await everything(store)
        backup = store.backup()
        await store.draw(B, [GranuleRange(1, 8, 9)])
        await add_block(store, 2)
        await store.raise_peer_settled(B, 2)
        await store.claim(B, "w", 1, 5)
        await store.begin_heartbeat(B, "n", None)
        assert await everything(backup) == before
        await backup.draw(B, [GranuleRange(1, 8, 9)])
        assert await everything(store) != before

    asyncio.run(story())


def test_two_runs_of_the_same_calls_are_the_same() -> None:
    async def run() -> list[object]:
        store = MemoryStore(A)
        await add_block(store, 1)
        await store.raise_peer_settled(B, 1)
        claims = [await store.claim(B, "w", 1, 5) for _ in range(3)]
        return [claims, await everything(store)]

    assert asyncio.run(run()) == asyncio.run(run())


def test_the_contract_runs_in_full() -> None:
    """Nobody drops a group of promises from the suite unnoticed."""
    for module, whole in (
        (store_contract, StoreContract),
        (store_contract_expiry, EndOfKeysContract),
    ):
        groups = [name for name in vars(module) if name.endswith("Contract")]
        assert {base.__name__ for base in whole.__mro__[:-1]} == set(groups)
