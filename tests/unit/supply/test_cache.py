import asyncio

from kme.store.memory import MemoryStore
from kme.supply.cache import BlockCache, OpenBlock
from supply_pair import A, B, BlockMaker, StoreScript, key_block


async def _stocked(n_blocks: int, n_bytes: int) -> tuple[MemoryStore, StoreScript, list[bytes]]:
    script = StoreScript()
    stores = (MemoryStore(A, script), MemoryStore(B))
    maker = BlockMaker(stores)
    keys = [await maker.add(A, n_bytes) for _ in range(n_blocks)]
    return stores[0], script, keys


def test_a_block_is_read_once_while_it_is_kept() -> None:
    async def scenario() -> None:
        store, script, keys = await _stocked(1, 600)
        cache = BlockCache(store)
        first = await cache.block(B, 1)
        assert first is not None
        assert first.key.reveal() == keys[0]
        assert first.id_key.reveal() == keys[0][32:64]
        assert await cache.block(B, 1) is first
        assert script.count("block") == 1

    asyncio.run(scenario())


def test_a_block_that_is_not_there_is_asked_for_again() -> None:
    async def scenario() -> None:
        store, script, _ = await _stocked(0, 600)
        cache = BlockCache(store)
        assert await cache.block(B, 1) is None
        assert await cache.block(B, 1) is None
        assert script.count("block") == 2
        assert cache.n_bytes == 0

    asyncio.run(scenario())


def test_the_block_unused_for_longest_leaves_and_is_wiped() -> None:
    async def scenario() -> None:
        store, script, keys = await _stocked(3, 600)
        cache = BlockCache(store, max_bytes=1200)
        first, second = await cache.block(B, 1), await cache.block(B, 2)
        assert await cache.block(B, 1) is first
        await cache.block(B, 3)
        assert first is not None
        assert second is not None
        assert first.key.reveal() == keys[0]
        assert repr(second.key) == repr(second.id_key) == "Secret(wiped)"
        assert cache.n_bytes == 1200
        again = await cache.block(B, 2)
        assert again is not None
        assert again.key.reveal() == keys[1]
        assert script.count("block") == 4

    asyncio.run(scenario())


def test_the_store_keeps_its_bytes_when_the_cache_wipes_its_own() -> None:
    async def scenario() -> None:
        store, _, keys = await _stocked(1, 600)
        cache = BlockCache(store)
        await cache.block(B, 1)
        cache.wipe()
        assert cache.n_bytes == 0
        stored = await store.block(B, 1)
        assert stored is not None
        assert stored.key.reveal() == keys[0]

    asyncio.run(scenario())


def test_one_block_is_kept_however_small_the_room() -> None:
    async def scenario() -> None:
        store, _, keys = await _stocked(2, 600)
        cache = BlockCache(store, max_bytes=1)
        await cache.block(B, 1)
        block = await cache.block(B, 2)
        assert block is not None
        assert block.key.reveal() == keys[1]
        assert cache.n_bytes == 600

    asyncio.run(scenario())


def test_two_tasks_that_read_the_same_block_leave_one_copy() -> None:
    async def scenario() -> None:
        store, script, keys = await _stocked(1, 600)
        gate = script.hold("after block")
        cache = BlockCache(store)
        readers = [asyncio.create_task(cache.block(B, 1)) for _ in range(2)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*readers)
        assert cache.n_bytes == 600
        kept = await cache.block(B, 1)
        assert kept is not None
        assert kept.key.reveal() == keys[0]

    asyncio.run(scenario())


def test_keys_lie_behind_the_reserved_bytes_and_before_the_end() -> None:
    block = OpenBlock.of(key_block(n_bytes=103))  # 12 whole granules
    assert block.holds(8, 4)
    assert block.holds(11, 1)
    assert not block.holds(7, 1)
    assert not block.holds(0, 12)
    assert not block.holds(8, 5)
    assert not block.holds(12, 1)
