"""driver - a driver's process: when it is asked to stop, and how much nobody took in yet."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from kme.epochs.finalkey import GIVEN_PREFIX

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_asked(*, stops_with_input: bool) -> Iterator[threading.Event]:
    """Return an event that SIGINT and SIGTERM set while the context lasts.

    Parameters
    ----------
    stops_with_input
        Whether the end of standard input sets it too: a parent that holds the
        other end of that pipe takes its children with it, however it dies.
    """
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in _STOP_SIGNALS}
    if stops_with_input:
        when_input_ends(stop.set)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def most_waiting(folders: Iterable[Path]) -> int:
    """Return how many final key files wait in the fullest of these folders.

    Those count, too, that a store was given and that lie there still.
    """
    patterns = "????????", f"{GIVEN_PREFIX}????????"
    return max(sum(1 for pattern in patterns for _ in folder.glob(pattern)) for folder in folders)


def when_input_ends(act: Callable[[], object]) -> None:
    """Call `act` from a thread of its own when standard input comes to its end."""

    def look() -> None:
        # Not through sys.stdin, whose lock a waiting thread would hold until the process ends.
        while os.read(0, 4096):
            pass
        act()

    threading.Thread(target=look, name="input", daemon=True).start()
