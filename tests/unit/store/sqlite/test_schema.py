"""Opening a store's file: ours or refused, in one line that names it."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kme.errors import SealError, SettingsError
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store.sqlite import SqliteStore, schema
from kme.store.sqlite.transaction import Transaction
from store_contract import A, B, everything, some_key

MASTER = Secret(bytes(32))


def open_and_close(path: Path, kme: KmeId = A, master: Secret = MASTER) -> None:
    async def story() -> None:
        store = await SqliteStore.open(kme, path, master)
        await store.ingest(B, SourceId("link"), Epoch(1), [some_key(8)])
        await everything(store)
        await store.close()

    asyncio.run(story())


def change(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_a_store_is_readable_by_its_owner_only_and_leaves_no_log_when_closed(
    tmp_path: Path,
) -> None:
    open_and_close(tmp_path / "kme.db")
    assert {entry.name for entry in tmp_path.iterdir()} == {"kme.db", "kme.db.lock"}
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in tmp_path.iterdir())


def test_what_is_no_secret_is_readable_with_any_sqlite_shell(tmp_path: Path) -> None:
    open_and_close(tmp_path / "kme.db")
    connection = sqlite3.connect(tmp_path / "kme.db")
    assert connection.execute(
        "SELECT peer, source, epoch, part, n_bytes FROM inbox"
    ).fetchall() == [("kme-b", "link", 1, 0, 8)]
    connection.close()


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "kme.db").touch()
    open_and_close(tmp_path / "kme.db")


def test_the_store_is_as_durable_and_forgetful_as_it_promises(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(A, tmp_path / "kme.db", MASTER)
        pragmas = ("journal_mode", "synchronous", "secure_delete", "locking_mode", "temp_store")
        found = [await store._writer.call(Transaction.row, f"PRAGMA {name}") for name in pragmas]
        assert found == [("wal",), (2,), (1,), ("exclusive",), (2,)]
        await store.close()

    asyncio.run(story())


def test_another_master_key_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    open_and_close(tmp_path / "kme.db")
    with pytest.raises(SealError, match=r"kme\.db: this store was made with another master key"):
        open_and_close(tmp_path / "kme.db", master=Secret(bytes(31) + b"\1"))
    open_and_close(tmp_path / "kme.db")


def test_another_kmes_store_is_refused(tmp_path: Path) -> None:
    open_and_close(tmp_path / "kme.db")
    with pytest.raises(SettingsError, match="the store of KME kme-a, not of kme-b"):
        open_and_close(tmp_path / "kme.db", kme=B)


@pytest.mark.parametrize("version", [1, 99])
def test_another_version_is_refused(tmp_path: Path, version: int) -> None:
    open_and_close(tmp_path / "kme.db")
    change(tmp_path / "kme.db", "UPDATE meta SET value = ? WHERE name = 'schema_version'", version)
    with pytest.raises(SettingsError, match=f"schema version {version}, this program knows 2: use"):
        open_and_close(tmp_path / "kme.db")


@pytest.mark.parametrize("value", [b"", bytes(8), bytes(60), "text", 17])
def test_a_broken_check_value_is_refused(tmp_path: Path, value: object) -> None:
    open_and_close(tmp_path / "kme.db")
    change(tmp_path / "kme.db", "UPDATE meta SET value = ? WHERE name = 'master_key_check'", value)
    with pytest.raises(SealError, match="another master key"):
        open_and_close(tmp_path / "kme.db")


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    change(tmp_path / "kme.db", "CREATE TABLE songs (title)")
    with pytest.raises(SettingsError, match="no store of a KME"):
        open_and_close(tmp_path / "kme.db")


def test_tables_come_to_be_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = schema._TABLES
    monkeypatch.setattr(schema, "_TABLES", (*tables, "CREATE TABLE broken ("))
    with pytest.raises(SettingsError, match="cannot be opened"):
        open_and_close(tmp_path / "kme.db")
    monkeypatch.setattr(schema, "_TABLES", tables)
    open_and_close(tmp_path / "kme.db")


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (Path.mkdir, "Is a directory"),
        (_garbage, "file is not a database"),
        (lambda path: path.symlink_to(path.parent / "none" / "x"), "No such file"),
    ],
)
def test_what_is_no_file_of_ours_is_named(
    tmp_path: Path, prepare: Callable[[Path], object], says: str
) -> None:
    prepare(tmp_path / "kme.db")
    with pytest.raises(SettingsError, match=rf"kme\.db: the store cannot be opened: .*{says}"):
        open_and_close(tmp_path / "kme.db")


def test_a_store_that_could_not_be_opened_can_be_opened_later(tmp_path: Path) -> None:
    _garbage(tmp_path / "kme.db")
    with pytest.raises(SettingsError):
        open_and_close(tmp_path / "kme.db")
    (tmp_path / "kme.db").unlink()
    open_and_close(tmp_path / "kme.db")


def test_a_store_that_another_program_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_BUSY_TIMEOUT_S", 0.05)
    open_and_close(tmp_path / "kme.db")
    shell = sqlite3.connect(tmp_path / "kme.db", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(SettingsError, match="database is locked"):
        open_and_close(tmp_path / "kme.db")
    shell.execute("ROLLBACK")
    shell.close()
    open_and_close(tmp_path / "kme.db")
