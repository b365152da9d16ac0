"""Draws on documents: who shares a commit, and who waits for what."""

import asyncio
from collections.abc import Mapping
from typing import Any

from kme.store.records import GranuleRange
from kme.store.vault import VaultStore
from memory_documents import MemoryDocuments
from store_contract import A, B, add_block
from vault_story import DIGEST_KEY


class GatedDocuments(MemoryDocuments):
    """Documents whose writes under one path wait until they are let through."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.gate = asyncio.Event()
        self.gate.set()
        self.n_writes = 0

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        if path.startswith(self._path):
            self.n_writes += 1
            await self.gate.wait()
        return await super().write(path, data, version)


async def _store_with_blocks(documents: MemoryDocuments) -> VaultStore:
    store = await VaultStore.open(A, documents, DIGEST_KEY)
    for number in (1, 2):
        await add_block(store, number, owner=B)
    return store


async def _turns(n_turns: int = 20) -> None:
    for _ in range(n_turns):
        await asyncio.sleep(0)


def test_the_next_commit_waits_a_moment_for_all_that_shared_the_last_one() -> None:
    async def story() -> None:
        documents = GatedDocuments("ledgers/")
        store = await _store_with_blocks(documents)

        async def draw_twice(granule: int, n_turns: int) -> None:
            await store.draw(B, [GranuleRange(1, granule, granule + 1)])
            await _turns(n_turns)  # its answer is on its way, and its next request
            await store.draw(B, [GranuleRange(1, granule + 50, granule + 51)])

        documents.gate.clear()
        documents.n_writes = 0
        callers = [asyncio.create_task(draw_twice(8 + n, 10 * n)) for n in range(4)]
        await asyncio.sleep(0.05)
        documents.gate.set()
        await asyncio.gather(*callers)
        assert documents.n_writes == 2
        await store.close()

    asyncio.run(story())


def test_only_who_drew_the_last_of_a_block_waits_for_its_end() -> None:
    async def story() -> None:
        documents = GatedDocuments("blocks/")
        store = await _store_with_blocks(documents)
        documents.gate.clear()
        last = asyncio.create_task(store.draw(B, [GranuleRange(1, 8, 128)]))
        await asyncio.gather(*(store.draw(B, [GranuleRange(2, n, n + 1)]) for n in (8, 9)))
        await store.draw(B, [GranuleRange(2, 10, 11)])
        await _turns()
        assert not last.done()
        documents.gate.set()
        await last
        assert await store.block(B, 1) is None
        assert await store.block(B, 2) is not None
        await store.close()

    asyncio.run(story())


def test_a_store_that_closes_waits_for_blocks_that_are_being_destroyed() -> None:
    async def story() -> None:
        documents = GatedDocuments("blocks/")
        store = await _store_with_blocks(documents)
        documents.gate.clear()
        last = asyncio.create_task(store.draw(B, [GranuleRange(1, 8, 128)]))
        await _turns(200)
        closing = asyncio.create_task(store.close())
        await _turns()
        assert not closing.done()
        documents.gate.set()
        await asyncio.gather(last, closing)

    asyncio.run(story())
