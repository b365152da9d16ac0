"""report - what became of a block, as the lines that other programs wait for and as JSON."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kme.files import write_whole
from kme.ids import Epoch
from qkd_sim.errcd.result import BlockResult
from qkd_sim.errors import BlockRefusedError, InputError


def _text(result: BlockResult) -> str:
    return (
        f"epoch {result.start_epoch} ({result.n_epochs}): {result.sifted_bits} bits sifted,"
        f" {result.final_bits} final, QBER {result.qber:.4f}"
    )


_LINES: Final[tuple[Callable[[BlockResult], str], ...]] = (
    lambda result: f"{result.start_epoch}",
    lambda result: f"{result.start_epoch} {result.final_bits}",
    lambda result: (
        f"{result.start_epoch} {result.sifted_bits} {result.final_bits}"
        f" {result.qber:.4f} {result.n_epochs}"
    ),
    _text,
    lambda result: (
        f"{result.start_epoch} {result.sifted_bits} {result.final_bits}"
        f" {result.qber:.4f} {result.disclosed_bits}"
    ),
    lambda result: f"{_text(result)}, {result.disclosed_bits} parities disclosed",
)

_FIRST_WITH_QBER: Final = 2
"""From this format on, a line has more to say than that there is a file."""


def notification(result: BlockResult, line_format: int) -> str:
    """Return the line that announces a final key, in one of the formats of option ``-V``."""
    return _LINES[line_format](result)


def refusal_notification(error: BlockRefusedError, line_format: int) -> str | None:
    """Return the line that says that a block gave no key, in those formats that have one."""
    known = error.diagnostics()
    epoch = known.get("start_epoch")
    if line_format < _FIRST_WITH_QBER or not isinstance(epoch, Epoch):
        return None
    qber = known.get("qber")
    shown = f"{qber:.4f}" if isinstance(qber, float) else "0"
    return f"{epoch} {known.get('sifted_bits', 0)} 0 {shown} {known.get('n_epochs', 0)}"


class Notifier:
    """Lines into a file or FIFO.

    Parameters
    ----------
    path
        Where to; a file is made if it isn't there, and appended to.

    Raises
    ------
    InputError
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            is_fifo = path.exists() and stat.S_ISFIFO(path.stat().st_mode)
            # a FIFO opened for reading too does not wait for its reader
            mode = os.O_RDWR if is_fifo else os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened: {error.strerror}") from error

    def write(self, line: str) -> None:
        """Write a line.

        Raises
        ------
        InputError
            If it cannot be written, for instance because nobody reads the FIFO.
        """
        try:
            os.write(self._descriptor, f"{line}\n".encode("ascii"))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def as_json(result: BlockResult) -> dict[str, object]:
    """Return the figures of a block under the names that the JSON file has."""
    return {
        "start_epoch": result.start_epoch.file_name,
        "n_epochs": result.n_epochs,
        "sifted_bits": result.sifted_bits,
        "sample_bits": result.sample.sample_bits,
        "sample_errors": result.sample.errors,
        "qber": result.qber,
        "key_bits": result.key_bits,
        "corrected_bits": result.corrected_bits,
        "disclosed_bits": result.disclosed_bits,
        "verification_bits": result.verification_bits,
        "efficiency": result.efficiency,
        "final_bits": result.final_bits,
        "seconds": result.seconds,
    }


def refusal_as_json(error: BlockRefusedError) -> dict[str, object]:
    """Return what is known of a refused block; `final_bits` is 0 and `refused` says why."""
    known = {name: value for name, value in error.diagnostics().items() if name != "code"}
    refused = known.pop("message")
    if isinstance(epoch := known.get("start_epoch"), Epoch):
        known["start_epoch"] = epoch.file_name
    return {**known, "final_bits": 0, "refused": refused}


def write_json(path: Path, blocks: list[dict[str, object]]) -> None:
    """Write all blocks as one JSON list.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    write_whole(path, (json.dumps(blocks, indent=1) + "\n").encode())
