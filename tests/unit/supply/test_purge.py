import asyncio

import pytest

from kme.ids import KeyId
from kme.store.grants import Grant
from kme.store.memory import MemoryStore
from kme.supply import purge
from simulation import VirtualClock, run_virtual
from store_contract import some_key
from supply_pair import ALICE, BOB, A, StoreScript


def grant(serial: int, due_unix_s: float) -> Grant:
    return Grant(KeyId(serial, 8, 32, 1), ALICE, (BOB,), some_key(32), bytes(32), due_unix_s)


def test_grants_are_purged_soon_after_their_time_also_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purge, "PURGE_LIMIT", 4)

    async def main(clock: VirtualClock) -> None:
        script = StoreScript()
        store = MemoryStore(A, script)
        begun_s = clock.now_s()
        grants = [grant(serial, begun_s + 300) for serial in range(1, 10)]
        await store.keep_grants(A, [*grants, grant(10, begun_s + 3600)])
        script.fail("before purge_grants", 2)
        purging = asyncio.create_task(purge.keep_purging(store, clock))
        ids = [one.key_id for one in grants] + [KeyId(10, 8, 32, 1)]
        await clock.sleep(299)
        assert len(await store.grants(A, ids)) == 10
        await clock.sleep(70)
        assert list(await store.grants(A, ids)) == ids[-1:]
        n_calls = script.count("purge_grants")
        await clock.sleep(3600)
        assert await store.grants(A, ids) == {}
        assert script.count("purge_grants") - n_calls <= 61
        purging.cancel()

    run_virtual(main)
