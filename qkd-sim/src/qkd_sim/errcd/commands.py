"""commands - which blocks Alice is to work on: lines of a FIFO or file, or options."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.ids import Epoch
from qkd_sim.errors import InputError

MAX_EPOCHS: Final = 1 << 16
"""No block spans more epochs."""

_MAX_LINE_BYTES: Final = 4096
_HEX: Final = re.compile(r"(0x)?[0-9a-fA-F]{1,8}")


@dataclass(frozen=True)
class Command:
    """A block to be worked on.

    Parameters
    ----------
    start_epoch, n_epochs
        Which raw keys it is made of.
    expected_qber
        Error rate to expect, if the command says one.
    """

    start_epoch: Epoch
    n_epochs: int
    expected_qber: float | None = None


def parse_command(line: str) -> Command:
    """Read ``EPOCH N [QBER [BELL]]``, the epoch in hexadecimal; a Bell value is not used.

    Raises
    ------
    InputError
        If the line is no command.
    """
    words = line.split()
    if not 2 <= len(words) <= 4:
        raise InputError(f"{line[:80]!r} is no command: EPOCH N [QBER [BELL]]")
    qber = None
    if len(words) > 2:
        try:
            qber = float(words[2])
        except ValueError as error:
            raise InputError(f"{words[2][:20]!r} is no error rate") from error
        if not 0 < qber < 0.5:
            raise InputError(f"an error rate of {qber:g} is not in 0..0.5")
    return _command(words[0], words[1], qber)


def parse_block(text: str) -> Command:
    """Read ``EPOCH:N``, the epoch in hexadecimal.

    Raises
    ------
    InputError
        If the text names no block.
    """
    epoch, colon, number = text.partition(":")
    if not colon:
        raise InputError(f"{text[:80]!r} is no block: EPOCH:N")
    return _command(epoch, number, None)


def _command(epoch: str, number: str, qber: float | None) -> Command:
    if not _HEX.fullmatch(epoch):
        raise InputError(f"{epoch[:20]!r} is no epoch in hexadecimal")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:9]) <= MAX_EPOCHS:
        raise InputError(f"{number[:20]!r} is no number of epochs, 1 to {MAX_EPOCHS}")
    return Command(Epoch(int(epoch, 16)), int(number), qber)


class CommandSource:
    """Lines of a FIFO, which never ends, or of a file, which does.

    Parameters
    ----------
    path
        The FIFO or file.

    Raises
    ------
    InputError
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            is_fifo = stat.S_ISFIFO(path.stat().st_mode)
            # opened for writing too, a FIFO stays open when its last writer goes
            mode = os.O_RDWR if is_fifo else os.O_RDONLY
            self.descriptor = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
        self._path = path
        self._arrived = b""
        self.is_at_end = False

    def next_line(self) -> str | None:
        """Return a line if a whole one is here, without waiting.

        Raises
        ------
        InputError
            If what comes isn't lines of text.
        """
        if b"\n" not in self._arrived and not self.is_at_end:
            self._read()
        line, newline, rest = self._arrived.partition(b"\n")
        if not newline and not (self.is_at_end and line):
            if len(line) > _MAX_LINE_BYTES:
                raise InputError(f"{self._path}: a command of more than {_MAX_LINE_BYTES} bytes")
            return None
        self._arrived = rest
        return line.decode("ascii", "replace").strip()

    def close(self) -> None:
        """Close the FIFO or file."""
        os.close(self.descriptor)

    def _read(self) -> None:
        try:
            data = os.read(self.descriptor, _MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror}") from error
        self.is_at_end = not data
        self._arrived += data
