"""supervisor - the child processes of `kme serve` and `kme demo`: started again when they die."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from kme.epochs.children import Child, link_reports, stop_child
from kme.errors import StageError
from kme.pair import KmePlace

__all__ = ["Child", "Restarts", "keep_running", "kme_child", "link_reports", "stop_child"]

MAX_RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 60.0


def kme_child(place: KmePlace) -> Child:
    """Return the child that is one KME of a pair."""
    command = [sys.executable, "-m", "kme", "run", "--config", str(place.config)]
    return Child(str(place.id), [*command, "--stop-with-input"], place.log)


class Restarts:
    """How often a child may be started again: a few times a minute, not for ever."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=MAX_RESTARTS)

    def allows(self, now_s: float) -> bool:
        """Count one more restart at this monotonic time; False if it is one too many."""
        is_too_many = (
            len(self._times_s) == MAX_RESTARTS and now_s - self._times_s[0] < RESTART_WINDOW_S
        )
        self._times_s.append(now_s)
        return not is_too_many


async def keep_running(
    child: Child,
    stop: asyncio.Event,
    on_start: Callable[[int], None],
    on_death: Callable[[int, str], None],
) -> None:
    """Run a child until `stop`, starting it again when it dies.

    Parameters
    ----------
    child
        What to run.
    stop
        Ends it cleanly.
    on_start
        Told the process id of each start.
    on_death
        Told the exit code and the last line of the log before each restart.

    Raises
    ------
    StageError
        If it dies more than `MAX_RESTARTS` times in `RESTART_WINDOW_S`.
    """
    loop = asyncio.get_running_loop()
    restarts = Restarts()
    while not stop.is_set():
        since_bytes = child.logged_bytes()
        process = await child.start()
        try:
            on_start(process.pid)
            await _either(process.wait(), stop.wait())
        finally:
            await stop_child(process)
        if stop.is_set():
            return
        words = child.last_words(since_bytes)
        if not restarts.allows(loop.time()):
            raise StageError(child.name, f"died too often; its log {child.log} ends: {words}")
        on_death(process.returncode or 0, words)


async def _either(*waits: Coroutine[Any, Any, object]) -> None:
    """Return as soon as one of the waits is over, and end the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
