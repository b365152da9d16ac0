"""copies - a store's file in, a consistent copy of it out; and back, marked as restored.

All of it needs the store's lock: no KME runs meanwhile. A restore prepares the
whole new store beside the old one, under a name that keeps every KME from
starting as long as it is there. So one that is cut off anywhere leaves either
the old store, or nothing that runs; and it is simply done again.
"""

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from kme.errors import SettingsError
from kme.files import TEMPORARY_PREFIX, sync_directory
from kme.ids import KmeId
from kme.secret import Secret
from kme.store import restore as rules
from kme.store.sqlite import restores
from kme.store.sqlite.lock import StoreLock
from kme.store.sqlite.schema import connect
from kme.store.sqlite.seal import Sealer
from kme.store.sqlite.transaction import Transaction

_SUFFIXES: Final = ("", "-wal", "-shm")
_HEADER: Final = b"SQLite format 3\0"


def unfinished(path: Path) -> Path:
    """Return where a restore prepares a store; while that is there, the store isn't opened."""
    return path.with_name(f"{path.name}.restoring")


def require_finished(path: Path) -> None:
    """Return if no restore of this store was cut off.

    Raises
    ------
    SettingsError
        If one was.
    """
    if unfinished(path).exists():
        raise SettingsError(f"{path}: a restore of this store was interrupted: run it again")


def back_up(kme: KmeId, path: Path, master_key: Secret, out: Path) -> None:
    """Write a copy of a store; a file of that name is replaced once the copy is whole.

    The copy holds what the store holds, sealed under the same master key.

    Raises
    ------
    SettingsError
        If a process uses the store, there is none, or the copy cannot be written.
    SealError
        If the store was made with another master key.
    """
    temporary = out.with_name(f"{TEMPORARY_PREFIX}{out.name}-{secrets.token_hex(4)}")
    with _alone(path), _readable(out):
        require_finished(path)
        _require_store(path)
        try:
            _create(temporary)
            with (
                closing(connect(path, kme, Sealer(master_key, kme))) as store,
                closing(sqlite3.connect(temporary)) as copy,
            ):
                store.backup(copy)
                _check(copy, temporary)
            _sync(temporary)
            temporary.replace(out)
            sync_directory(out.parent)
        finally:
            temporary.unlink(missing_ok=True)


def restore(kme: KmeId, path: Path, master_key: Secret, source: Path, incarnation: str) -> Path:
    """Put a copy in a store's place, marked as restored; return where the old store is now.

    Raises
    ------
    SettingsError
        If a process uses the store, or the copy is none of this KME's stores.
    SealError
        If the copy was made with another master key.
    """
    rules.check_incarnation(incarnation)
    new = unfinished(path)
    with _alone(path), _readable(source):
        _require_store(source)
        _remove(new)
        try:
            _create(new)
            with source.open("rb") as old, new.open("wb") as copy:
                shutil.copyfileobj(old, copy)
            _mark(kme, new, master_key, incarnation)
            _sync(new)
        except BaseException:
            if path.exists():
                _remove(new)  # nothing has happened yet
            raise
        sync_directory(path.parent)
        aside = _set_aside(path)
        new.rename(path)
        sync_directory(path.parent)
    return aside


def mark(kme: KmeId, path: Path, master_key: Secret, incarnation: str) -> None:
    """Mark a store as restored where it is.

    Raises
    ------
    SettingsError
        If a process uses the store, or there is none.
    SealError
        If the store was made with another master key.
    """
    rules.check_incarnation(incarnation)
    with _alone(path), _readable(path):
        require_finished(path)
        _require_store(path)
        _mark(kme, path, master_key, incarnation)


def _mark(kme: KmeId, path: Path, master_key: Secret, incarnation: str) -> None:
    sealer = Sealer(master_key, kme)
    with closing(connect(path, kme, sealer)) as connection:
        _check(connection, path)
        transaction = Transaction(connection, kme, sealer)
        transaction.run("BEGIN IMMEDIATE")
        restores.mark(transaction, incarnation)
        transaction.run("COMMIT")
        # Only the database itself is moved to its place.
        transaction.rows("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = StoreLock.take(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line what a disk or a damaged file makes impossible."""
    try:
        yield
    except OSError as error:
        what = error.filename or path
        raise SettingsError(f"{what}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise SettingsError(f"{path}: cannot be copied: {error}") from error


def _require_store(path: Path) -> None:
    with path.open("rb") as stream:
        header = stream.read(len(_HEADER))
    if header != _HEADER:
        raise SettingsError(f"{path}: this is no store of a KME")


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Return if a database is undamaged, page by page."""
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != ("ok",):
        raise SettingsError(f"{path}: this database is damaged: {found and found[0]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _set_aside(path: Path) -> Path:
    """Move a store with its log into a folder of its own; the log belongs to no other store."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.before-{moment}-{secrets.token_hex(2)}")
    aside.mkdir(mode=0o700)
    for suffix in _SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside / part.name)
    sync_directory(aside)
    sync_directory(path.parent)
    return aside
