"""schema - the tables of a store, and the connection that may use them."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from kme.errors import SealError, SettingsError
from kme.ids import KmeId
from kme.store.sqlite.seal import Sealer

VERSION: Final = 2
"""What the tables look like; a store of any other version is refused."""

_BUSY_TIMEOUT_S: Final = 2.0

_PRAGMAS: Final = (
    # Nobody but this connection touches the file: versions of SQLite before 3.51.3 may
    # corrupt a WAL that two connections reset at the same time.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA journal_size_limit = 33554432",
)

_TABLES: Final = (
    """CREATE TABLE meta (
        name TEXT PRIMARY KEY, value BLOB NOT NULL
    ) WITHOUT ROWID""",
    # Which epochs of a source ever came in: first to last, both included.
    """CREATE TABLE source_epochs (
        peer TEXT NOT NULL, source TEXT NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL CHECK (first <= last),
        PRIMARY KEY (peer, source, first)
    ) WITHOUT ROWID""",
    # Final keys that wait to be paired.
    """CREATE TABLE inbox (
        peer TEXT NOT NULL, source TEXT NOT NULL, epoch INTEGER NOT NULL, part INTEGER NOT NULL,
        n_bytes INTEGER NOT NULL, data_key BLOB NOT NULL, key BLOB NOT NULL,
        PRIMARY KEY (peer, source, epoch, part)
    )""",
    # Where pairing stands with each peer.
    """CREATE TABLE pairs (
        peer TEXT PRIMARY KEY,
        highest INTEGER NOT NULL, peer_settled INTEGER NOT NULL,
        floor_allocate INTEGER NOT NULL, floor_draw INTEGER NOT NULL
    ) WITHOUT ROWID""",
    # The open proposal (no verdict yet) and the last settlement of each pair.
    """CREATE TABLE proposals (
        peer TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('open', 'last')),
        number INTEGER NOT NULL, owner TEXT NOT NULL, source TEXT NOT NULL,
        lifetime_s INTEGER NOT NULL, source_class TEXT NOT NULL, tag BLOB NOT NULL, verdict TEXT,
        PRIMARY KEY (peer, state)
    ) WITHOUT ROWID""",
    """CREATE TABLE proposal_entries (
        peer TEXT NOT NULL, state TEXT NOT NULL, position INTEGER NOT NULL,
        epoch INTEGER NOT NULL, part INTEGER NOT NULL,
        PRIMARY KEY (peer, state, position)
    ) WITHOUT ROWID""",
    """CREATE TABLE blocks (
        peer TEXT NOT NULL, number INTEGER NOT NULL, owner TEXT NOT NULL,
        source TEXT NOT NULL, source_class TEXT NOT NULL, lifetime_s INTEGER NOT NULL,
        n_bytes INTEGER NOT NULL, data_key BLOB NOT NULL, key BLOB NOT NULL,
        PRIMARY KEY (peer, number)
    )""",
    # The blocks whose keys are drawn here: granule g was if bit g % 8 (of weight 2^(g % 8)) of
    # byte g / 8 is set.
    """CREATE TABLE ledgers (
        peer TEXT NOT NULL, number INTEGER NOT NULL,
        n_granules INTEGER NOT NULL, drawn BLOB NOT NULL,
        PRIMARY KEY (peer, number)
    ) WITHOUT ROWID""",
    # Blocks that this KME owns: from next_granule on, `room` granules were never claimed.
    """CREATE TABLE own_blocks (
        peer TEXT NOT NULL, number INTEGER NOT NULL,
        next_granule INTEGER NOT NULL, room INTEGER NOT NULL CHECK (room >= 0),
        is_begun INTEGER NOT NULL CHECK (is_begun IN (0, 1)),
        PRIMARY KEY (peer, number)
    ) WITHOUT ROWID""",
    "CREATE INDEX own_blocks_begun ON own_blocks (peer, room, number) WHERE is_begun = 1",
    "CREATE INDEX own_blocks_fresh ON own_blocks (peer, room, number) WHERE is_begun = 0",
    # How many usable blocks (above the floor, settled by the peer) have just so much room.
    """CREATE TABLE stock (
        peer TEXT NOT NULL, room INTEGER NOT NULL,
        n_blocks INTEGER NOT NULL CHECK (n_blocks >= 0),
        PRIMARY KEY (peer, room)
    ) WITHOUT ROWID""",
    # Claims that are open.
    """CREATE TABLE claims (
        nonce TEXT PRIMARY KEY, peer TEXT NOT NULL, worker TEXT NOT NULL,
        number INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX claims_by_worker ON claims (worker)",
    "CREATE INDEX claims_by_block ON claims (peer, number, start)",
    # What expires when: blocks below `number`, but those in `open_from` (JSON: pairs of a
    # block and its first granule that doesn't expire) only up to there.
    """CREATE TABLE expiries (
        id INTEGER PRIMARY KEY, peer TEXT NOT NULL,
        number INTEGER NOT NULL, open_from TEXT NOT NULL, due_unix_s REAL NOT NULL
    )""",
    "CREATE INDEX expiries_by_time ON expiries (peer, due_unix_s, id)",
    # A granted key, once for each SAE that it names; without its bytes once that one took it.
    """CREATE TABLE grants (
        peer TEXT NOT NULL, key_id TEXT NOT NULL, slave TEXT NOT NULL,
        master TEXT NOT NULL, proof BLOB NOT NULL, due_unix_s REAL NOT NULL,
        data_key BLOB, key BLOB,
        PRIMARY KEY (peer, key_id, slave)
    )""",
    "CREATE INDEX grants_by_due ON grants (due_unix_s)",
    """CREATE TABLE heartbeats (
        peer TEXT PRIMARY KEY, pending TEXT, acknowledged TEXT, heard TEXT
    ) WITHOUT ROWID""",
    """CREATE TABLE incidents (
        id INTEGER PRIMARY KEY,
        peer TEXT NOT NULL, kind TEXT NOT NULL, unix_s REAL NOT NULL, details TEXT NOT NULL
    )""",
)


def connect(path: Path, kme: KmeId, sealer: Sealer) -> sqlite3.Connection:
    """Open a store's file, make its tables if it is new, and check that it is ours.

    Raises
    ------
    SettingsError
        If the file cannot be opened or written, is something else, belongs to
        another KME or was made by another version.
    SealError
        If it was made with another master key.
    """
    try:
        _create_file(path)
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            _prepare(connection, path, kme, sealer)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise SettingsError(f"{path}: the store cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        raise SettingsError(f"{path}: the store cannot be opened: {error}") from error
    return connection


def _create_file(path: Path) -> None:
    """Make the file with its final mode; SQLite gives the same to its WAL."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _prepare(connection: sqlite3.Connection, path: Path, kme: KmeId, sealer: Sealer) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        _create_tables(connection, kme, sealer)
    elif "meta" not in tables:
        raise SettingsError(f"{path}: this database is no store of a KME")
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    version = meta.get("schema_version")
    if version != VERSION:
        raise SettingsError(
            f"{path}: the store has schema version {version}, this program knows {VERSION}:"
            " use the version of the program that made it"
        )
    if meta.get("kme") != kme:
        raise SettingsError(f"{path}: this is the store of KME {meta.get('kme')}, not of {kme}")
    if not sealer.is_mine(meta.get("master_key_check")):
        raise SealError(f"{path}: this store was made with another master key")


def _create_tables(connection: sqlite3.Connection, kme: KmeId, sealer: Sealer) -> None:
    meta = (
        ("schema_version", VERSION),
        ("kme", kme),
        ("master_key_check", sealer.check_value()),
    )
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.execute("COMMIT")
