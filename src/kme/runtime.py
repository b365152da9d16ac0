"""runtime - a process of kme: one event loop, signals that ask it to stop, errors in one line."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import uvloop

from kme.errors import KmeError

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_SWITCH_S: Final = 0.0005
"""How long a busy event loop keeps the interpreter from a thread that wants it.

A store's threads wait for disk or Vault and compute little in between; with
Python's 5 ms they would wait longer for the loop than for the disk.
"""


def share_interpreter() -> None:
    """Let threads beside a busy event loop have their turn soon."""
    sys.setswitchinterval(_SWITCH_S)


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM while the context lasts; the second one is final."""
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def stop_when_input_ends(stop: asyncio.Event) -> None:
    """Set `stop` when standard input comes to its end.

    A parent that holds the other end of that pipe takes its children with it,
    however it dies.
    """
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, look)


def run(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run a process's work until it ends or a signal sets its stop event.

    Raises
    ------
    KmeError
        What the work raised, freed of the exception groups around it.
    """

    async def main() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await work(stop)

    share_interpreter()
    try:
        uvloop.run(main())
    except BaseExceptionGroup as group:
        raise first_error(group) from group


def first_error(group: BaseExceptionGroup) -> BaseException:
    """Return the error that matters out of nested groups: kme's own before any other."""
    flat = list(_flatten(group))
    return next((error for error in flat if isinstance(error, KmeError)), flat[0])


def _flatten(group: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error
