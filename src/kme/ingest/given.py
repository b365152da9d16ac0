"""given - a file whose key the store is given is named so, until it is certain what became of it.

The name is all that is remembered: whoever is killed at any moment, the next
process finds it, and however many are killed, it stays. It is written to disk
before the store is given anything.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kme.epochs.finalkey import GIVEN_PREFIX
from kme.files import sync_directory


def given_name(path: Path) -> Path:
    """Return what a file is called while the store may have its key."""
    return path.with_name(f"{GIVEN_PREFIX}{path.name}")


def is_there(path: Path) -> bool:
    """Return whether there is something of that name that is no folder."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def hand_out(path: Path) -> Path:
    """Rename a file that the store is about to be given, and return what it is called now.

    Raises
    ------
    FileNotFoundError
        If it is gone.
    OSError
        If it cannot be renamed; then it could not be removed either.
    """
    given = path.rename(given_name(path))
    try:
        sync_directory(path.parent)
    except OSError:
        take_back(given, path)
        raise
    return given


def take_back(given: Path, path: Path) -> Path:
    """Give a file that the store refused its name back, unless another one has it by now.

    Returns
    -------
    Path
        What it is called now.
    """
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):
            return given.rename(path)
    return given


@contextlib.contextmanager
def taken_by_one(path: Path) -> Iterator[bool]:
    """Keep a file from all others who would take it; say whether that was possible.

    The lock goes with the process, and with the file when it is renamed. What
    cannot be opened is not locked: whoever reads it learns why.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        yield _is_locked(lock)
    finally:
        os.close(lock)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
