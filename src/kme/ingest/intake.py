"""intake - a bounded queue of epoch files: several taken in at once, each once, oldest first."""

import asyncio
import contextlib
import heapq
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kme.clock import pause
from kme.errors import InboxFullError, UnavailableError
from kme.ids import Epoch
from kme.ingest.ingest import UNFINISHED_S, Feed, Ingest, Outcome

_logger = logging.getLogger(__name__)

MAX_WAITING: Final = 4096
"""Whoever announces one more file waits."""

_FIRST_BACK_OFF_S: Final = 0.5
_MAX_BACK_OFF_S: Final = 15.0
_FAILED_AGAIN_S: Final = 30.0
"""A file that failed for no reason that is foreseen is tried again after so long."""

_FROM_STORE: Final = {Outcome.INGESTED, Outcome.DUPLICATE}
"""These say that the store answered."""


@dataclass(slots=True)
class IntakeCounts:
    """What went wrong since the process started.

    Parameters
    ----------
    n_outages
        Times that the store began to be away.
    n_failures
        Files that could not be taken in for a reason that nobody foresaw; they stay.
    """

    n_outages: int = 0
    n_failures: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _File:
    """A file that waits; older epochs come first."""

    epoch: Epoch
    path: Path
    feed: Feed = field(compare=False)


class Intake:
    """Has files taken in.

    A file stands in the queue once, however often it is announced. While the
    store is away files stay where they are, and one of them is tried again,
    more and more seldom, until it succeeds. Files of a source whose inbox is
    full leave the queue, so that those of others go on.

    Parameters
    ----------
    ingest
        Takes one file in.
    parallel
        So many are taken in at once.
    max_waiting
        Length of the queue.
    """

    def __init__(self, ingest: Ingest, parallel: int, max_waiting: int = MAX_WAITING) -> None:
        self.counts = IntakeCounts()
        self._ingest = ingest
        self._parallel = parallel
        self._max_waiting = max_waiting
        self._queue: list[_File] = []
        self._waiting: set[Path] = set()
        self._working: dict[Path, bool] = {}
        self._full: set[Feed] = set()
        self._told_full: set[Feed] = set()
        self._back_off_s = 0.0
        self._paused_until_s = 0.0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()

    @property
    def is_held_up(self) -> bool:
        """Whether files wait for a store that is away."""
        return self._back_off_s > 0 and bool(self._waiting or self._working)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._working)

    def take_full(self) -> bool:
        """Return whether files were left because an inbox was full, since this was last asked.

        Then all that lies in the folders is to be announced again, later.
        """
        was_full = bool(self._full)
        self._full.clear()
        return was_full

    async def announce(self, feed: Feed, epoch: Epoch) -> None:
        """Put a file into the queue, as soon as there is room.

        Parameters
        ----------
        feed
            Whose file it is.
        epoch
            Its name.
        """
        path = feed.directory / epoch.file_name
        while path not in self._waiting:
            if path in self._working:
                # It may have been looked for before it came: it is looked for once more.
                self._working[path] = True
                return
            if len(self._waiting) < self._max_waiting:
                self._put(_File(self._ingest.universal(epoch), path, feed))
                return
            self._has_room.clear()
            await self._has_room.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Take files in until `stop` is set; those under way are finished first."""
        async with _told_of(stop, self._changed), asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                while (file := self._next()) is not None:
                    tasks.create_task(self._take(file, stop), name=f"take {file.path.name}")
                self._changed.clear()
                await self._changed.wait()

    def _next(self) -> _File | None:
        """Take a file out of the queue if it may be begun now."""
        is_paused = asyncio.get_running_loop().time() < self._paused_until_s
        # While the store is away a single file finds out whether it is back.
        parallel = 1 if self._back_off_s else self._parallel
        if not self._queue or is_paused or len(self._working) >= parallel:
            return None
        file = heapq.heappop(self._queue)
        self._waiting.discard(file.path)
        self._working[file.path] = False
        self._has_room.set()
        return file

    def _put(self, file: _File) -> None:
        heapq.heappush(self._queue, file)
        self._waiting.add(file.path)
        self._changed.set()

    async def _take(self, file: _File, stop: asyncio.Event) -> None:
        again_s = await self._try(file)
        is_announced_again = self._working.pop(file.path)
        self._changed.set()
        if again_s is not None:
            # It counts as waiting meanwhile, so that the queue stays bounded.
            self._waiting.add(file.path)
            await pause(stop, again_s)
            self._put(file)
        elif is_announced_again:
            self._put(file)

    async def _try(self, file: _File) -> float | None:
        """Take one file in; return after how long to try it again, None if it is done with."""
        try:
            outcome = await self._ingest.take(file.feed, file.path)
        except InboxFullError as error:
            self._leave(file.feed, error)
            return None
        except UnavailableError as error:
            self._begin_outage(error)
            return 0.0
        except Exception as error:  # noqa: BLE001 - the edge of the loop: log, count, go on
            self.counts.n_failures += 1
            self._report("taking in failed", error, _FAILED_AGAIN_S, path=str(file.path))
            return _FAILED_AGAIN_S
        if outcome in _FROM_STORE and self._back_off_s:
            _logger.info("the store is back; taking in goes on")
            self._back_off_s = self._paused_until_s = 0.0
        if outcome is Outcome.INGESTED:
            self._told_full.discard(file.feed)
        return UNFINISHED_S if outcome is Outcome.UNFINISHED else None

    def _leave(self, feed: Feed, error: InboxFullError) -> None:
        """Forget the files of a source that wait; they lie in their folder."""
        if feed not in self._told_full:
            _logger.warning("taking in pauses", extra={"reason": error.message})
        self._told_full.add(feed)
        self._full.add(feed)
        kept = [file for file in self._queue if file.feed != feed]
        self._waiting -= {file.path for file in self._queue if file.feed == feed}
        heapq.heapify(kept)
        self._queue = kept
        self._has_room.set()

    def _begin_outage(self, error: UnavailableError) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._paused_until_s:
            return  # another file met the same outage
        self.counts.n_outages += self._back_off_s == 0
        self._back_off_s = min(max(2 * self._back_off_s, _FIRST_BACK_OFF_S), _MAX_BACK_OFF_S)
        self._paused_until_s = loop.time() + self._back_off_s
        loop.call_at(self._paused_until_s, self._changed.set)
        self._report("taking in waits for the store", error, self._back_off_s)

    def _report(self, event: str, error: Exception, again_in_s: float, **more: object) -> None:
        _logger.warning(
            event,
            extra={
                "reason": f"{type(error).__name__}: {error}",
                "n_waiting": len(self._waiting) + len(self._working),
                "again_in_s": again_in_s,
                **more,
            },
        )


@contextlib.asynccontextmanager
async def _told_of(stop: asyncio.Event, event: asyncio.Event) -> AsyncIterator[None]:
    """Have `event` set when `stop` is."""

    async def tell() -> None:
        await stop.wait()
        event.set()

    telling = asyncio.create_task(tell(), name="tell of the stop")
    try:
        yield
    finally:
        telling.cancel()
