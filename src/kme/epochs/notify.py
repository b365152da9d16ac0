"""notify - one line per finished epoch file, over a FIFO: `peer/source/epoch`.

The reader makes the FIFO and holds it open for reading and writing, so that
writers come and go without its ever seeing an end. A line is far shorter than
``PIPE_BUF``, so lines of several writers never mix.
"""

import contextlib
import os
import select
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.errors import IdentifierError, InputError, UnavailableError
from kme.ids import Epoch, KmeId, SourceId

MAX_LINE_BYTES: Final = 128
"""No notice is longer: 63 bytes of peer, 32 of source, 8 of epoch and what stands between."""

FIFO_MODE: Final = 0o620
"""Its owner reads; the group of its folder may write."""

_READ_BYTES: Final = 4096
_RETRY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Notice:
    """An epoch file is finished.

    Parameters
    ----------
    peer
        The KME that gets the same key at the other end.
    source
        What made it.
    epoch
        The file's name.
    """

    peer: KmeId
    source: SourceId
    epoch: Epoch

    def to_line(self) -> bytes:
        """Return the notice as a line, its end included."""
        return f"{self.peer}/{self.source}/{self.epoch}\n".encode()

    @classmethod
    def from_line(cls, line: bytes) -> "Notice | None":
        """Read a line without its end; None if it is no notice."""
        try:
            peer, source, epoch = line.decode("ascii").split("/")
            return cls(KmeId(peer), SourceId(source), Epoch.from_file_name(epoch))
        except (ValueError, IdentifierError):
            return None


class NoticeLines:
    """Cuts what comes out of a FIFO into notices, whatever else was written there."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Notice | None]:
        """Yield what the lines that end in `data` say: a notice, or None for any other line."""
        *lines, rest = (self._rest + data).split(b"\n")
        # A line that is too long stays too long; what else it says isn't kept.
        self._rest = rest[: MAX_LINE_BYTES + 1]
        return (_read_line(line) for line in lines if line)


def _read_line(line: bytes) -> Notice | None:
    return None if len(line) > MAX_LINE_BYTES else Notice.from_line(line)


class NoticeFifo:
    """The reader's end of the FIFO.

    Parameters
    ----------
    path
        Where it is; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def open(self) -> None:
        """Open the FIFO, and make it first if anything else lies there, or nothing.

        Raises
        ------
        InputError
            If it can be neither made nor opened.
        """
        self.close()
        try:
            if not self._is_usable():
                self._make()
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags)
        except OSError as error:
            raise InputError(
                f"{self._path}: the FIFO cannot be made or opened: {error.strerror}; its folder "
                "must belong to this service, and nothing but a FIFO may lie there"
            ) from error

    def is_in_place(self) -> bool:
        """Whether what is open is what writers find under its name."""
        try:
            found = self._path.lstat()
            held = os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def read(self) -> bytes:
        """Return what writers have written since; nothing if there is none now."""
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the FIFO; it stays where it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_usable(self) -> bool:
        """Whether a FIFO of an earlier start lies there, which somebody may wait to write to."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return False
        is_own = stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid()
        is_open_to_group = stat.S_IMODE(found.st_mode) == FIFO_MODE
        return is_own and is_open_to_group and found.st_gid == self._path.parent.stat().st_gid

    def _make(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        os.mkfifo(temporary, 0o600)
        try:
            os.chown(temporary, -1, self._path.parent.stat().st_gid)
            temporary.chmod(FIFO_MODE)  # whatever the umask is
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)


def send(path: Path, notices: Sequence[Notice], wait_s: float) -> None:
    """Write notices to the FIFO, one line each.

    Parameters
    ----------
    path
        The FIFO.
    notices
        What to say, in order.
    wait_s
        How long to wait for a reader; and, at each line, for room.

    Raises
    ------
    UnavailableError
        If nobody reads: which of the reasons it is, and what to do.
    """
    with _opened(path, wait_s) as descriptor:
        for n_sent, notice in enumerate(notices):
            _send_one(descriptor, notice, wait_s, f"{n_sent} of {len(notices)} files announced")


@contextlib.contextmanager
def _opened(path: Path, wait_s: float) -> Iterator[int]:
    """Wait until somebody reads the FIFO, and hold it open for writing."""
    deadline_s = time.monotonic() + wait_s
    while (descriptor := _open(path)) is None:
        if time.monotonic() >= deadline_s:
            raise UnavailableError(
                f"{path}: {_what_is_wrong(path)}; start the watcher and look into its log"
            )
        time.sleep(_RETRY_S)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """Open the FIFO for writing; None if that isn't possible now."""
    try:
        # Without O_NONBLOCK it would wait for a reader for ever.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _what_is_wrong(path: Path) -> str:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        return f"there is no FIFO: {error.strerror}"
    if not stat.S_ISFIFO(mode):
        return "is no FIFO"
    return "nobody reads the FIFO" if os.access(path, os.W_OK) else "may not be written to"


def _send_one(descriptor: int, notice: Notice, wait_s: float, so_far: str) -> None:
    while select.select([], [descriptor], [], wait_s)[1]:
        try:
            os.write(descriptor, notice.to_line())
        except BlockingIOError:
            continue  # another writer took the room
        except BrokenPipeError as error:
            raise UnavailableError(
                f"{so_far}; the watcher ended: it takes in all files when it starts again"
            ) from error
        return
    raise UnavailableError(
        f"{so_far}; the watcher reads no more: is its store away? "
        "Announce them again when it is back"
    )
