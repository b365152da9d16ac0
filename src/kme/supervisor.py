"""supervisor - the child processes of `kme serve` and `kme demo`: started, watched, stopped.

Each child holds one end of a pipe as its standard input and stops when that
pipe ends, so that none outlives its parent, however the parent dies.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kme.epochs.qkde import LinkJob, StageReport, find_driver
from kme.errors import StageError
from kme.pair import KmePlace

STOP_TIMEOUT_S: Final = 15.0
MAX_RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 60.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """A program to run as a child process.

    Parameters
    ----------
    name
        What it is called on the screen.
    command
        Program and arguments; nothing secret stands in them.
    log
        File to which its standard error is appended.
    """

    name: str
    command: Sequence[str]
    log: Path

    async def start(self, *, wants_output: bool = False) -> asyncio.subprocess.Process:
        """Start it; its standard output is a pipe if `wants_output`, else it joins the log."""
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if wants_output else log,
                stderr=log,
                # Ctrl-C reaches the parent alone, which stops its children in order.
                start_new_session=True,
            )

    def last_words(self) -> str:
        """Return the last line of its log, which says why it ended."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            size_bytes = log.seek(0, os.SEEK_END)
            log.seek(max(0, size_bytes - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


def kme_child(place: KmePlace) -> Child:
    """Return the child that is one KME of a pair."""
    command = [sys.executable, "-m", "kme", "run", "--config", str(place.config)]
    return Child(str(place.id), [*command, "--stop-with-input"], place.log)


async def stop_child(process: asyncio.subprocess.Process) -> None:
    """Ask a child to end, and end it if it does not."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        _logger.warning("a child did not stop in time and is killed", extra={"pid": process.pid})
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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
        process = await child.start()
        try:
            on_start(process.pid)
            await _either(process.wait(), stop.wait())
        finally:
            await stop_child(process)
        if stop.is_set():
            return
        words = child.last_words()
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


async def link_reports(driver: str, job: LinkJob, log: Path) -> AsyncIterator[StageReport]:
    """Run a link and yield its reports, one per finished stage.

    Parameters
    ----------
    driver
        Name of the driver.
    job
        What it is to do.
    log
        File to which its standard error is appended.

    Raises
    ------
    StageError
        If it fails: the stage and the message are the driver's own.
    """
    child = Child("link", find_driver(driver).command(job), log)
    process = await child.start(wants_output=True)
    try:
        if process.stdout is None:
            raise StageError("link", "its output is not a pipe")
        async for line in process.stdout:
            yield StageReport.from_line(line.decode())
        if await process.wait():
            stage, _, message = child.last_words().partition(": ")
            raise StageError(stage or "link", message or f"ended with code {process.returncode}")
    finally:
        await stop_child(process)
