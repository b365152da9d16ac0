"""used - epochs of a source, each one used once: what is taken is on disk before it is used."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kme.errors import IdentifierError, InputError
from kme.files import write_whole
from kme.ids import Epoch

_MAX_PID_BYTES: Final = 20


class UsedEpochs:
    """The epochs that a source has used up, also before a crash or with a clock that went back.

    Parameters
    ----------
    state
        File that keeps the last one.
    """

    def __init__(self, state: Path) -> None:
        self._state = state

    def take(self, now_s: float, n_epochs: int = 1) -> Epoch:
        """Use up epochs that follow each other, and return the first of them.

        Parameters
        ----------
        now_s
            Universal time: no epoch before it is taken.
        n_epochs
            How many.

        Raises
        ------
        InputError
            If the state cannot be read or written, or isn't one.
        """
        start = Epoch.at_time(now_s)
        last = self._last()
        if last is not None:
            start = max(start, Epoch(last.number + 1))
        # Durable before any of them is used: a crash leaves a gap, never an epoch twice.
        write_whole(self._state, f"{Epoch(start.number + n_epochs - 1)}\n".encode())
        return start

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from using epochs of this source while the context lasts.

        The operating system lets go when the process ends, however it ends.

        Raises
        ------
        InputError
            If another process holds them, or the lock cannot be written.
        """
        path = self._state.with_name(f"{self._state.name}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _MAX_PID_BYTES, 0).strip().decode("ascii", "replace")
            raise InputError(
                f"{self._state.parent}: process {holder or '(unknown)'} makes key there: "
                "stop it first"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    def _last(self) -> Epoch | None:
        """Return the last epoch that was used; None before the first."""
        try:
            with self._state.open("rb") as stream:
                text = stream.read(64)
            return Epoch.from_file_name(text.decode("ascii", "replace").strip())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self._state}: cannot be read: {error.strerror}") from error
        except IdentifierError as error:
            raise InputError(
                f"{self._state}: does not hold the last epoch that was used; write one there "
                "that is later than any used before"
            ) from error
