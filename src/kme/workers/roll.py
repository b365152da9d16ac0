"""roll - the workers of one container that are at work, and the names of those that died."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kme.errors import SettingsError

_FOLDER: Final = "workers"


class Roll:
    """Who works here: one locked file for each worker, named like it.

    The kernel frees the lock of a worker that dies, however it dies; so what
    it had claimed can be closed without guessing.

    Parameters
    ----------
    directory
        A folder that all workers of the container share.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / _FOLDER

    @contextmanager
    def present(self, name: str) -> Iterator[None]:
        """Be at work under a name that no worker had before, while the context lasts.

        Raises
        ------
        SettingsError
            If the folder cannot be written.
        """
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            # Locked before it has its name: nobody takes it for one of the dead.
            unborn = self._folder / f".{name}"
            descriptor = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unborn.rename(path)
        except OSError as error:
            raise SettingsError(f"{path}: cannot be made: {error.strerror}") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def names(self) -> list[str]:
        """Return the workers that work, and those that ended without a word."""
        return [path.name for path in sorted(self._folder.glob("worker-*"))]

    def dead(self) -> list[str]:
        """Return the workers that ended without a word."""
        return [name for name in self.names() if _is_free(self._folder / name)]

    def strike(self, name: str) -> None:
        """Forget a dead worker."""
        (self._folder / name).unlink(missing_ok=True)


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
