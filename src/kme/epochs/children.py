"""children - programs run as child processes: a driver and its reports, stopped with their parent.

Each child holds one end of a pipe as its standard input and stops when that
pipe ends, so that none outlives its parent, however the parent dies.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.epochs.qkde import LinkJob, StageReport, find_driver
from kme.errors import StageError

STOP_TIMEOUT_S: Final = 15.0

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


async def link_reports(driver: str, job: LinkJob, log: Path) -> AsyncGenerator[StageReport, None]:
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
