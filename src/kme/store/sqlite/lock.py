"""lock - one process per store: an advisory lock on a file that names the holder's pid."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from kme.errors import SettingsError

_MAX_PID_BYTES: Final = 20


class StoreLock:
    """The right to be the one process that uses a store.

    The operating system lets go of it when the process ends, however it ends.

    Parameters
    ----------
    descriptor
        The open and locked file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, store: Path) -> Self:
        """Lock the store at this path.

        Raises
        ------
        SettingsError
            If another process has it, or the lock file cannot be written.
        """
        path = store.with_name(f"{store.name}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            holder = os.pread(descriptor, _MAX_PID_BYTES, 0).strip().decode("ascii", "replace")
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise SettingsError(
                    f"{store}: process {holder or '(unknown)'} uses this store: stop it first"
                ) from error
            raise SettingsError(f"{path}: cannot be locked: {error.strerror}") from error
        return cls(descriptor)

    def release(self) -> None:
        """Let another process use the store; the file stays for the next one."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1
