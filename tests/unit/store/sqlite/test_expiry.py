"""Destroying in SQLite: some blocks at a time, none lost by a failure, no cost that grows."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from kme.errors import KeyNotFoundError, PairingError, StoreUnavailableError
from kme.secret import Secret
from kme.store.records import MAX_OPEN_FROM, Expiry, Frontier, GranuleRange
from kme.store.sqlite import SqliteStore, expiry
from kme.store.sqlite import store as sqlite_store
from kme.store.sqlite.transaction import Transaction
from store_contract import A, B, add_block, claim, refuses_draw, rooms

MASTER = Secret(bytes(32))


def with_store(path: Path, story: Callable[[SqliteStore], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        store = await SqliteStore.open(A, path, MASTER)
        await story(store)
        await store.close()

    asyncio.run(run())


async def n_rows(store: SqliteStore) -> tuple[int, ...]:
    """Return how many blocks there are, how many ledgers, and how many own blocks with room."""
    found = await store._writer.call(
        Transaction.row,
        "SELECT (SELECT count(*) FROM blocks), (SELECT count(*) FROM ledgers),"
        " (SELECT count(*) FROM own_blocks)",
    )
    assert found is not None
    return found


def test_of_very_many_blocks_below_the_floors_the_rest_is_destroyed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "CHUNK", 2)
    monkeypatch.setattr(sqlite_store, "_MAX_SWEEPS", 3)

    async def story(store: SqliteStore) -> None:
        for number in range(1, 31):
            await add_block(store, number, 512, A if number % 2 else B)
        await store.raise_peer_settled(B, 30)
        await store.raise_floors(B, allocate=28, draw=26)
        assert await n_rows(store) == (18, 9, 9)
        # What is left is as good as gone.
        assert await rooms(store) == {56: 1}
        assert await store.frontier(B) == Frontier(31, {29: 8})
        assert (await claim(store, 1)).reserved.block_number == 29
        await refuses_draw(store, GranuleRange(26, 8, 9))
        for left in ((6, 3, 3), (3, 2, 1), (3, 2, 1)):
            assert await store.expire(B, 1.0) == 0
            assert await n_rows(store) == left
        await store.draw(B, [GranuleRange(28, 8, 9)])

    with_store(tmp_path / "kme.db", story)


def test_an_expiry_is_carried_out_some_blocks_at_a_time_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "CHUNK", 3)

    async def story(store: SqliteStore) -> None:
        for number in range(1, 21):
            await add_block(store, number, 512, B)
        await store.note_expiry(B, Expiry(Frontier(18, {2: 10}), 5.0))
        await store._writer.call(
            Transaction.run,
            "CREATE TEMP TRIGGER stubborn BEFORE DELETE ON blocks WHEN OLD.number = 9"
            " BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        with pytest.raises(StoreUnavailableError):
            await store.expire(B, 5.0)
        n_left, _, _ = await n_rows(store)
        assert n_left > 12
        assert await n_rows(store) == (n_left, n_left, 0)
        assert len(await store.expiries(B)) == 1
        await store._writer.call(Transaction.run, "DROP TRIGGER stubborn")
        assert await store.expire(B, 5.0) == 56 * (n_left - 4)
        assert await n_rows(store) == (4, 4, 0)
        assert await store.expiries(B) == []

    with_store(tmp_path / "kme.db", story)


def test_a_last_draw_is_not_acknowledged_if_the_block_cannot_be_destroyed(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, 512, B)
        await store._writer.call(
            Transaction.run,
            "CREATE TEMP TRIGGER stubborn BEFORE DELETE ON blocks"
            " BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        with pytest.raises(StoreUnavailableError):
            await store.draw(B, [GranuleRange(1, 8, 64)])
        await store._writer.call(Transaction.run, "DROP TRIGGER stubborn")
        await store.draw(B, [GranuleRange(1, 8, 64)])
        assert await n_rows(store) == (0, 0, 0)

    with_store(tmp_path / "kme.db", story)


def test_a_call_that_fails_beside_a_last_draw_brings_no_block_back(tmp_path: Path) -> None:
    def fail(tx: Transaction) -> None:
        tx.run("DELETE FROM ledgers")
        raise PairingError("refused on purpose")

    async def story(store: SqliteStore) -> None:
        for number in (1, 2):
            await add_block(store, number, 512, B)
        answers = await asyncio.gather(
            store.draw(B, [GranuleRange(1, 8, 20)]),
            store.draw(B, [GranuleRange(1, 20, 64), GranuleRange(2, 8, 9)]),
            store._writer.call(fail),
            store.draw(B, [GranuleRange(1, 30, 31)]),
            return_exceptions=True,
        )
        nothing = type(None)
        kinds = [type(answer) for answer in answers]
        assert kinds == [nothing, nothing, PairingError, KeyNotFoundError]
        assert await store.block(B, 1) is None
        await refuses_draw(store, GranuleRange(2, 8, 9))
        await store.draw(B, [GranuleRange(2, 9, 10)])

    with_store(tmp_path / "kme.db", story)


def test_no_call_reads_more_rows_in_a_large_stock(tmp_path: Path) -> None:
    """Steps of SQLite's machine are counted: they don't depend on how busy the computer is."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    async def cost(store: SqliteStore, n_blocks: int, first: int) -> list[int]:
        nonlocal steps
        rows = [(B, number, 8, 56 + number % 5, 0) for number in range(first, first + n_blocks)]

        def fill(tx: Transaction) -> None:
            tx.run("DELETE FROM own_blocks WHERE peer = ?", B)
            tx.run("DELETE FROM stock WHERE peer = ?", B)
            tx.run_many("INSERT INTO own_blocks VALUES (?, ?, ?, ?, ?)", rows)
            for room in range(56, 61):
                tx.run("INSERT INTO stock VALUES (?, ?, ?)", B, room, n_blocks // 5)

        await store._writer.call(fill)
        connection = store._writer._transaction.connection
        costs = []
        for call in (
            lambda: store.claim(B, "w", 58, 59),
            lambda: store.claim(B, "w", 1, 1),
            lambda: store.frontier(B),
            lambda: store.close_claims("w"),
            lambda: store.expire(B, 1.0),
            lambda: store.stock(B),
        ):
            steps = 0
            connection.set_progress_handler(count, 1)
            await call()
            connection.set_progress_handler(None, 1)
            costs.append(steps)
        return costs

    async def story(store: SqliteStore) -> None:
        for number in (1, 2):
            await add_block(store, number, 512, B)
        await store.raise_peer_settled(B, 10**6)
        few = await cost(store, 2 * MAX_OPEN_FROM, 10)
        many = await cost(store, 20_000, 1000)
        for small, large in zip(few, many, strict=True):
            assert large < 1.2 * small

    with_store(tmp_path / "kme.db", story)
