"""instance - the workers of one container in, at most one that may stand for election out."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.errors import SettingsError

_LOCK_NAME: Final = "elected"
_NAME_BYTES: Final = 64


class Instance:
    """The workers that share one folder: those of one container, from its start on.

    A lock on a file there lets one of them at a time stand for election, so
    that the others need not ask the store who was elected. The kernel frees
    the lock when its holder dies, however it dies. The instance's name is kept
    in that very file: who holds the lock of a name knows that nobody else of
    that name is at work.

    Parameters
    ----------
    directory
        A folder that lasts as long as the container (tmpfs).
    clock
        Paces the looks at the lock.
    poll_s
        Time between two looks.
    """

    def __init__(self, directory: Path, clock: Clock, poll_s: float = 0.25) -> None:
        self._path = directory / _LOCK_NAME
        self._clock = clock
        self._poll_s = poll_s

    @asynccontextmanager
    async def only_one(self) -> AsyncIterator[str]:
        """Wait until no other worker of the instance is in here; give the instance's name.

        Raises
        ------
        SettingsError
            If there can be no lock in the folder.
        """
        with contextlib.ExitStack() as stack:
            descriptor = self._open()
            stack.callback(os.close, descriptor)
            while not _is_locked_now(descriptor):
                await self._clock.sleep(self._poll_s)
            yield _name_in(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(
                f"{self._path}: cannot be opened: {error.strerror}; workers need a folder of "
                "their own that they may write"
            ) from error


def _is_locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name_in(descriptor: int) -> str:
    """Return the name in the locked file; the first one who locks it makes it."""
    if not os.pread(descriptor, _NAME_BYTES, 0):
        os.pwrite(descriptor, secrets.token_hex(16).encode(), 0)
    return os.pread(descriptor, _NAME_BYTES, 0).decode()
