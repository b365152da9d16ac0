"""What SQLite is told: no call reads more than it must, however much is kept."""

import asyncio
from pathlib import Path

from kme.ids import Epoch
from kme.secret import Secret
from kme.store.records import Expiry, Frontier, GranuleRange, Settlement, Verdict
from kme.store.sqlite import SqliteStore
from kme.store.sqlite.transaction import Transaction
from store_contract import LINK, A, B, add_block, everything, proposal, ref, some_key

MASTER = Secret(bytes(32))


async def _every_call(store: SqliteStore) -> None:
    for number, owner in ((1, A), (2, B)):
        await add_block(store, number, owner=owner)
    await store.ingest(B, LINK, Epoch(3), [some_key(8)])
    await store.ingest(B, LINK, Epoch(5), [some_key(8)])
    await store.ingest(B, LINK, Epoch(4), [some_key(8)])
    await store.open_proposal(B, proposal(3, ref(3), ref(4)))
    await store.settle(B, Settlement(proposal(3, ref(3), ref(4)), Verdict.VOID), None)
    await store.raise_peer_settled(B, 3)
    claimed = await store.claim(B, "w", 1, 10)
    assert claimed is not None
    await store.give_back(B, claimed, 9)
    await store.close_claims("w")
    await store.draw(B, [GranuleRange(2, 8, 10), GranuleRange(2, 12, 20)])
    await store.frontier(B)
    await store.note_expiry(B, Expiry(Frontier(3, {2: 11}), 1.0))
    await store.note_expiry(B, Expiry(Frontier(3), 1.0))
    await store.expire(B, 1.0)
    await store.raise_floors(B, 1, 1)
    await add_block(store, 4)
    await store.raise_peer_settled(B, 4)
    await store.raise_floors(B, 4, 4)
    await store.begin_heartbeat(B, "n", None)
    await store.held(B, [ref(5)])
    await store.inbox(B, LINK, ref(3), 10)
    await everything(store)


def test_no_call_looks_through_a_whole_table(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(A, tmp_path / "kme.db", MASTER)
        connection = store._writer._transaction.connection
        told: list[str] = []
        connection.set_trace_callback(told.append)
        await _every_call(store)
        connection.set_trace_callback(None)
        queries = {s for s in told if s.startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))}
        assert len(queries) > 50
        for query in queries:
            plan = await store._writer.call(Transaction.rows, f"EXPLAIN QUERY PLAN {query}")
            for *_, step in plan:
                # The latest alarms are read backwards, and only as many as asked for.
                is_bounded = step == "SCAN incidents" and "LIMIT" in query
                assert is_bounded or "SCAN" not in step, (query, step)
                assert "TEMP B-TREE" not in step or "GROUP BY room" in query, (query, step)
        await store.close()

    asyncio.run(story())


def test_a_run_of_epochs_is_kept_as_one_row(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(A, tmp_path / "kme.db", MASTER)
        for number in (5, 9, 7, 8, 6, 20, 4):
            await store.ingest(B, LINK, Epoch(number), [some_key(8)])
        intervals = await store._writer.call(
            Transaction.rows, "SELECT first, last FROM source_epochs ORDER BY first"
        )
        assert intervals == [(4, 9), (20, 20)]
        await store.close()

    asyncio.run(story())
