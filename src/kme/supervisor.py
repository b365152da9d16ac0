"""supervisor - the child processes of `kme serve` and `kme demo`: started, watched, stopped.

Each child holds one end of a pipe as its standard input and stops when that
pipe ends, so that none outlives its parent, however the parent dies.
"""

import asyncio
import contextlib
import logging
import os
import re
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

_TAIL_BYTES: Final = 4096
_MAX_WORDS: Final = 500
_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")

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
        """Start it; its standard output is a pipe if `wants_output`, else it joins the log.

        Raises
        ------
        StageError
            If the program cannot be run, or the log not written.
        """
        try:
            with self.log.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE if wants_output else log,
                    stderr=log,
                    # Ctrl-C reaches the parent alone, which stops its children in order.
                    start_new_session=True,
                )
        except OSError as error:
            what = error.filename or self.command[0]
            raise StageError(self.name, f"cannot be started: {what}: {error.strerror}") from error

    def logged_bytes(self) -> int:
        """Return how long its log is by now."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def last_words(self, since_bytes: int = 0) -> str:
        """Return the last line of its log, which says why it ended.

        Parameters
        ----------
        since_bytes
            How long the log was when it was started: what stands before is
            an earlier process's.
        """
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            size_bytes = log.seek(0, os.SEEK_END)
            log.seek(max(since_bytes, size_bytes - _TAIL_BYTES))
            lines = log.read(_TAIL_BYTES).decode(errors="replace").strip().splitlines()
            line = lines[-1][:_MAX_WORDS] if lines else ""
            return "".join(sign if sign.isprintable() else "?" for sign in line)
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
    since_bytes = child.logged_bytes()
    process = await child.start(wants_output=True)
    try:
        while line := await _read_line(process):
            yield StageReport.from_line(line)
        if await process.wait():
            raise _last_error(child.last_words(since_bytes), process.returncode)
    finally:
        await stop_child(process)


async def _read_line(process: asyncio.subprocess.Process) -> str:
    """Return the next line of a child's standard output; nothing at its end."""
    if process.stdout is None:
        raise StageError("link", "its output is not a pipe")
    try:
        return (await process.stdout.readline()).decode(errors="replace")
    except ValueError as error:
        raise StageError("link", "the driver wrote no report: an endless line") from error


def _last_error(words: str, code: int | None) -> StageError:
    """Return what a driver said at its end, ``stage: message``, as an error."""
    stage, colon, message = words.partition(": ")
    if colon and _STAGE_NAME.fullmatch(stage):
        return StageError(stage, message)
    ended = f"killed by signal {-code}" if code is not None and code < 0 else f"code {code}"
    return StageError("link", f"the driver ended ({ended}){': ' if words else ''}{words}")
