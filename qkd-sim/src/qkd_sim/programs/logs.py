"""logs - a stage program's lines, one per epoch: to a file, a pipe or a screen."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO


class Log:
    """Lines for whoever waits for epochs.

    Parameters
    ----------
    target
        Where they go; None to say nothing.
    is_flushed
        Whether each line is handed over at once.
    """

    def __init__(self, target: TextIO | None, *, is_flushed: bool) -> None:
        self._target = target
        self._is_flushed = is_flushed

    def line(self, text: str) -> None:
        """Write one line."""
        if self._target is not None:
            print(text, file=self._target, flush=self._is_flushed)


@contextmanager
def screen_or_file(path: Path | None, verbosity: int, *, is_flushed: bool) -> Iterator[Log]:
    """Open the log of a chopper: appended to a file, or standard output; silent below level 0."""
    if verbosity < 0:
        yield Log(None, is_flushed=False)
    elif path is None:
        yield Log(sys.stdout, is_flushed=is_flushed)
    else:
        with _open(path, "a") as target:
            yield Log(target, is_flushed=is_flushed)


@contextmanager
def file_or_nothing(
    path: Path | None, verbosity: int = 0, mode: Literal["a", "w"] = "w"
) -> Iterator[Log]:
    """Open a log that is only kept if a file is named; each line at once."""
    if path is None or verbosity < 0:
        yield Log(None, is_flushed=False)
    else:
        with _open(path, mode) as target:
            yield Log(target, is_flushed=True)


@contextmanager
def file_or_screen(path: Path | None) -> Iterator[Log]:
    """Open what a program's output goes to: a file written anew, or standard output."""
    if path is None:
        yield Log(sys.stdout, is_flushed=True)
    else:
        with _open(path, "w") as target:
            yield Log(target, is_flushed=True)


def _open(path: Path, mode: Literal["a", "w"]) -> TextIO:
    """Open a text file; `OSError` names it by itself."""
    return path.open(mode, encoding="ascii")
