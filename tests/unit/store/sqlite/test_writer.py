"""Group commit: many calls, one fsync; failures stay alone; full disks, killed processes."""

import asyncio
import contextlib
import importlib.util
import random
import resource
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from kme.errors import (
    InputError,
    KeyNotFoundError,
    KmeError,
    PairingError,
    StoreUnavailableError,
)
from kme.ids import Epoch
from kme.secret import Secret
from kme.store.records import (
    RESERVED_GRANULES,
    GranuleRange,
    HeartbeatRecord,
    Incident,
    IncidentKind,
    Settlement,
    Verdict,
)
from kme.store.sqlite import SqliteStore, pairing, transaction, writer
from kme.store.sqlite.transaction import Transaction
from store_contract import LINK, A, B, add_block, equal, everything, proposal, some_key

MASTER = Secret(bytes(range(32)))
STORM = Path(__file__).with_name("storm.py")


def with_store(path: Path, story: Callable[[SqliteStore], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        store = await SqliteStore.open(A, path, MASTER)
        await story(store)
        await store.close()

    asyncio.run(run())


@contextlib.contextmanager
def statements_of(store: SqliteStore) -> Iterator[list[str]]:
    """Collect what SQLite is told."""
    seen: list[str] = []
    connection = store._writer._transaction.connection
    connection.set_trace_callback(seen.append)
    yield seen
    connection.set_trace_callback(None)


def test_calls_made_together_share_a_commit(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        ranges = [GranuleRange(1, g, g + 1) for g in range(8, 108)]
        with statements_of(store) as seen:
            await asyncio.gather(*(store.draw(B, [one]) for one in ranges))
        assert sum("COMMIT" in statement for statement in seen) == 1
        # However many draws there are of a block, its ledger is read and written once.
        assert sum("FROM ledgers" in statement for statement in seen) == 1
        assert sum("UPDATE ledgers" in statement for statement in seen) == 1

    with_store(tmp_path / "kme.db", story)


def test_very_many_calls_are_committed_in_groups_of_bounded_size(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, 8192, owner=B)
        n_calls = 2 * writer._MAX_GROUP + 1
        with statements_of(store) as seen:
            await asyncio.gather(
                *(store.draw(B, [GranuleRange(1, g, g + 1)]) for g in range(8, 8 + n_calls))
            )
        assert sum("COMMIT" in statement for statement in seen) == 3

    with_store(tmp_path / "kme.db", story)


def test_a_failing_call_undoes_only_what_it_did_itself(tmp_path: Path) -> None:
    def write_and_fail(tx: Transaction) -> None:
        tx.run("INSERT INTO heartbeats VALUES ('kme-x', 'n', 'n', 'n')")
        tx.run("UPDATE pairs SET highest = 99")
        raise PairingError("refused on purpose")

    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        answers = await asyncio.gather(
            store.draw(B, [GranuleRange(1, 8, 9)]),
            store._writer.call(write_and_fail),
            store.draw(B, [GranuleRange(1, 8, 9)]),
            store.begin_heartbeat(B, "mine", None),
            store.settle(B, Settlement(proposal(1, owner=B), Verdict.VOID), None),
            store.draw(B, [GranuleRange(1, 9, 10)]),
            return_exceptions=True,
        )
        kinds = [type(answer) for answer in answers]
        nothing = type(None)
        refused = PairingError
        assert kinds == [nothing, refused, KeyNotFoundError, HeartbeatRecord, refused, nothing]
        assert (await store.pairing(B)).highest == 1
        assert (await store.heartbeat(B)).pending == "mine"
        for granule in (8, 9):
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [GranuleRange(1, granule, granule + 1)])

    with_store(tmp_path / "kme.db", story)
    connection = sqlite3.connect(tmp_path / "kme.db")
    assert connection.execute("SELECT peer FROM heartbeats").fetchall() == [("kme-b",)]
    connection.close()


def test_a_defect_reaches_its_caller_and_the_store_lives_on(tmp_path: Path) -> None:
    def defect(tx: Transaction) -> None:
        tx.run("DELETE FROM blocks")
        raise ZeroDivisionError

    def wrong_sql(tx: Transaction) -> None:
        tx.run("DELETE FROM blocks")
        tx.run("SELECT no_such_column FROM blocks")

    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        answers = await asyncio.gather(
            store._writer.call(defect),
            store._writer.call(wrong_sql),
            store.draw(B, [GranuleRange(1, 8, 9)]),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [
            ZeroDivisionError,
            StoreUnavailableError,
            type(None),
        ]
        assert await store.block(B, 1) is not None

    with_store(tmp_path / "kme.db", story)


def test_what_no_column_can_hold_is_refused_as_input(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        with pytest.raises(InputError):
            await store.begin_heartbeat(B, "\ud800", None)
        with pytest.raises(InputError):
            await store.inbox(B, LINK, None, 2**70)
        await store.record_incident(Incident(B, IncidentKind.UNEQUAL_BLOCK, 1.0, "odd \ud800"))
        assert (await store.incidents(1))[0].details == "odd \\ud800"

    with_store(tmp_path / "kme.db", story)


def test_if_the_whole_transaction_falls_no_call_of_it_is_acknowledged(tmp_path: Path) -> None:
    def fall(tx: Transaction) -> None:
        tx.run("ROLLBACK")
        raise PairingError("SQLite gave up the transaction")

    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        answers = await asyncio.gather(
            store.draw(B, [GranuleRange(1, 8, 9)]),
            store._writer.call(fall),
            store.begin_heartbeat(B, "n", None),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
        assert (await store.heartbeat(B)).pending is None
        await store.draw(B, [GranuleRange(1, 8, 9)])

    with_store(tmp_path / "kme.db", story)


def test_draws_are_not_acknowledged_if_their_ledger_cannot_be_written(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        await store._writer.call(
            Transaction.run,
            "CREATE TEMP TRIGGER stubborn BEFORE UPDATE ON ledgers"
            " BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        answers = await asyncio.gather(
            store.draw(B, [GranuleRange(1, 8, 9)]),
            store.begin_heartbeat(B, "n", None),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [StoreUnavailableError] * 2
        assert (await store.heartbeat(B)).pending is None
        await store._writer.call(Transaction.run, "DROP TRIGGER stubborn")
        await store.draw(B, [GranuleRange(1, 8, 9)])

    with_store(tmp_path / "kme.db", story)


def test_draws_of_a_block_cost_one_statement_each_once_its_ledger_is_in_memory(
    tmp_path: Path,
) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 9)])
        with statements_of(store) as seen:
            await asyncio.gather(*(store.draw(B, [GranuleRange(1, g, g + 1)]) for g in (9, 10, 11)))
        kinds = [statement.split()[0] for statement in seen]
        assert kinds == ["BEGIN", "UPDATE", "COMMIT"]

    with_store(tmp_path / "kme.db", story)


def test_a_ledger_in_memory_falls_with_the_transaction_that_changed_it(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 9)])
        await store._writer.call(
            Transaction.run,
            "CREATE TEMP TRIGGER stubborn BEFORE UPDATE ON ledgers"
            " BEGIN SELECT RAISE(ABORT, 'no'); END",
        )
        with pytest.raises(StoreUnavailableError):
            await store.draw(B, [GranuleRange(1, 9, 10)])
        await store._writer.call(Transaction.run, "DROP TRIGGER stubborn")
        await store.draw(B, [GranuleRange(1, 9, 10)])
        for granule in (8, 9):
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [GranuleRange(1, granule, granule + 1)])

    with_store(tmp_path / "kme.db", story)


def test_a_floor_in_memory_falls_with_the_call_that_raised_it(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, owner=B)
        await store.draw(B, [GranuleRange(1, 8, 9)])

        def raise_and_fail(tx: Transaction) -> None:
            pairing.raise_marks(tx, B, 0, 0, 1)
            assert tx.floor_draw(B) == 1
            raise PairingError("in the end it doesn't hold")

        with pytest.raises(PairingError):
            await store._writer.call(raise_and_fail)
        await store.draw(B, [GranuleRange(1, 9, 10)])
        await store.raise_floors(B, draw=1)
        with pytest.raises(KeyNotFoundError):
            await store.draw(B, [GranuleRange(1, 10, 11)])

    with_store(tmp_path / "kme.db", story)


def test_more_ledgers_than_memory_keeps_are_all_drawn_from_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_MAX_LEDGERS", 2)

    async def story(store: SqliteStore) -> None:
        for number in range(1, 6):
            await add_block(store, number, owner=B)
        for granule in (8, 9):
            for number in range(1, 6):
                await store.draw(B, [GranuleRange(number, granule, granule + 1)])
        for number in range(1, 6):
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [GranuleRange(number, 8, 10)])

    with_store(tmp_path / "kme.db", story)


def test_a_broken_connection_is_an_outage_and_closes_without_a_traceback(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        with pytest.raises(StoreUnavailableError):
            await store._writer.call(lambda tx: tx.connection.close())
        with pytest.raises(StoreUnavailableError) as caught:
            await store.pairing(B)
        # What strangers read has no path in it; the operator sees the reason.
        assert str(caught.value) == "the store cannot be used now"
        assert "closed database" in str(caught.value.diagnostics()["reason"])

    with_store(tmp_path / "kme.db", story)
    with_store(tmp_path / "kme.db", everything_is_readable)


async def everything_is_readable(store: SqliteStore) -> None:
    await everything(store)


def test_too_many_waiting_calls_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MAX_WAITING", 10)

    async def story(store: SqliteStore) -> None:
        answers = await asyncio.gather(
            *(store.heartbeat(B) for _ in range(25)), return_exceptions=True
        )
        assert sum(isinstance(answer, StoreUnavailableError) for answer in answers) == 15
        await store.heartbeat(B)

    with_store(tmp_path / "kme.db", story)


def test_a_caller_that_gives_up_waiting_disturbs_nobody(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> None:
        go_on = threading.Event()
        held_up = asyncio.create_task(store._writer.call(lambda tx: go_on.wait(5)))
        given_up = asyncio.create_task(store.begin_heartbeat(B, "n", None))
        waiting = asyncio.create_task(store.heartbeat(B))
        await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await held_up
        # Given up or not, the call was made.
        assert (await waiting).pending == "n"
        with pytest.raises(asyncio.CancelledError):
            await given_up

    with_store(tmp_path / "kme.db", story)


def test_a_loop_that_ends_first_leaves_what_was_committed(tmp_path: Path) -> None:
    go_on = threading.Event()

    def write_late(tx: Transaction) -> None:
        go_on.wait(5)
        tx.run("INSERT INTO heartbeats VALUES ('kme-b', 'n', NULL, NULL)")

    async def abandon() -> SqliteStore:
        store = await SqliteStore.open(A, tmp_path / "kme.db", MASTER)
        task = asyncio.create_task(store._writer.call(write_late))
        await asyncio.sleep(0.01)
        task.cancel()
        return store

    store = asyncio.run(abandon())
    store._writer._queue.put(None)
    go_on.set()
    store._writer.join(5)
    assert not store._writer.is_alive()
    store._lock.release()

    async def look(store: SqliteStore) -> None:
        assert (await store.heartbeat(B)).pending == "n"

    with_store(tmp_path / "kme.db", look)


def test_a_log_that_cannot_be_truncated_is_reported_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "_SHRED_AFTER_S", 0.001)

    def refuse(self: Transaction, statement: str, *values: object) -> list[tuple[object, ...]]:
        raise sqlite3.OperationalError("disk I/O error")

    async def story(store: SqliteStore) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(Transaction, "rows", refuse)
            await add_block(store, 1, owner=B)
            for _ in range(500):
                if caplog.records:
                    break
                await asyncio.sleep(0.01)
        await store.draw(B, [GranuleRange(1, 8, 9)])

    with_store(tmp_path / "kme.db", story)
    assert caplog.messages == ["the write-ahead log could not be truncated"]


@contextlib.contextmanager
def no_file_grows_beyond(n_bytes: int) -> Iterator[None]:
    """Let this process's writes fail beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_outage_that_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "kme.db"

    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, 4096)
        await store.raise_peer_settled(B, 1)
        taken = [Epoch(2000)]
        while await store.ingest(B, LINK, taken[-1], [some_key(60_000)]) and len(taken) < 3:
            taken.append(Epoch(2000 + len(taken)))
        before = await everything(store)
        wal_bytes = path.with_name("kme.db-wal").stat().st_size
        with no_file_grows_beyond(wal_bytes + 8192):
            failed = 0
            for number in range(3000, 3010):
                try:
                    assert await store.ingest(B, LINK, Epoch(number), [some_key(60_000)])
                except StoreUnavailableError:
                    failed += 1
            assert failed == 10
            with pytest.raises(StoreUnavailableError):
                await store.settle(B, equal(2), some_key(65_536))
            assert await everything(store) == before
        # Space again: all goes on, and what failed may be repeated.
        assert await store.ingest(B, LINK, Epoch(3000), [some_key(60_000)])
        await store.settle(B, equal(2), some_key(65_536))
        assert (await store.claim(B, "w", 1, 4)) is not None

    with_store(path, story)


def test_a_database_that_was_damaged_is_an_outage_and_no_wrong_key(tmp_path: Path) -> None:
    path = tmp_path / "kme.db"

    async def fill(store: SqliteStore) -> None:
        for number in range(1, 6):
            await add_block(store, number, 20_000)

    with_store(path, fill)
    whole = path.read_bytes()
    rng = random.Random(1)
    n_errors = 0

    async def read(store: SqliteStore) -> None:
        nonlocal n_errors
        for number in range(1, 6):
            try:
                block = await store.block(B, number)
            except KmeError:
                n_errors += 1
            else:
                assert block is None or block.key == some_key(20_000, number)

    for _ in range(12):
        damaged = bytearray(whole)
        begin = rng.randrange(4096, len(damaged) - 512)
        damaged[begin : begin + 512] = rng.randbytes(512)
        path.write_bytes(damaged)
        with contextlib.suppress(KmeError):
            with_store(path, read)
    assert n_errors > 0


def test_a_killed_process_loses_nothing_it_acknowledged_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "kme.db"
    told: list[list[str]] = []

    async def check(store: SqliteStore) -> None:
        await nothing_is_lost_or_repeated(store, told)

    for n_round, n_lines in enumerate((100, 500, 300)):
        with subprocess.Popen(
            [sys.executable, STORM, path, str(n_round)], stdout=subprocess.PIPE
        ) as storm:
            assert storm.stdout is not None
            lines = [storm.stdout.readline() for _ in range(n_lines)]
            storm.kill()
            lines += storm.stdout.readlines()
        told += [line.decode().split() for line in lines if line.endswith(b"\n")]
        with_store(path, check)
    assert {words[0] for words in told} == {"ingest", "settle", "claim", "draw"}


async def nothing_is_lost_or_repeated(store: SqliteStore, told: list[list[str]]) -> None:
    spec = importlib.util.spec_from_file_location("storm", STORM)
    assert spec is not None
    assert spec.loader is not None
    storm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(storm)
    facts = {kind: [tuple(map(int, w[1:])) for w in told if w[0] == kind] for kind in KINDS}
    for kind in ("claim", "draw"):
        granules = [(n, g) for n, start, stop in facts[kind] for g in range(start, stop)]
        assert len(granules) == len(set(granules)), f"a granule was acknowledged twice: {kind}"
    claimed = {(n, g) for n, start, stop in facts["claim"] for g in range(start, stop)}
    await store.close_claims()
    for _ in range(5):
        if (got := await store.claim(B, "w", 1, 1)) is not None:
            assert (got.reserved.block_number, got.reserved.start) not in claimed
            await store.give_back(B, got, got.reserved.start)
    for number, start, stop in facts["draw"]:
        with pytest.raises(KeyNotFoundError):
            await store.draw(B, [GranuleRange(number, start, stop)])
    for (number,) in facts["ingest"]:
        assert not await store.ingest(B, LINK, Epoch(number), [some_key(8)])
    granules_of_block = storm.BLOCK_BYTES // 8 - RESERVED_GRANULES
    n_claimed = Counter(number for number, _ in claimed)
    for (number,) in facts["settle"]:
        block = await store.block(B, number)
        if block is None:
            # Used up; of at most a few claims of each worker nobody was told before a kill.
            assert n_claimed[number] > granules_of_block - MAX_UNTOLD
        else:
            assert block.key == storm.block_key(number)
    check = await store._writer.call(Transaction.row, "PRAGMA integrity_check")
    assert check == ("ok",)


KINDS = ("ingest", "settle", "claim", "draw")
MAX_UNTOLD = 3 * 4 * 3
"""In each round each of four workers may have claimed up to three granules and not said so."""
