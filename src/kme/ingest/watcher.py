"""watcher - looks into folders of epoch files and has each of them taken in, in order."""

import asyncio
import heapq
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.clock import pause
from kme.errors import UnavailableError
from kme.ids import Epoch
from kme.ingest.folders import epoch_names
from kme.ingest.ingest import Feed, Ingest, Outcome

_logger = logging.getLogger(__name__)

_MAX_BACK_OFF_S: Final = 30.0

_LEFT_ALONE: Final = {Outcome.STUCK, Outcome.UNFINISHED}


@dataclass(slots=True)
class WatcherCounts:
    """What went wrong since the watcher started.

    Parameters
    ----------
    n_outages
        Looks that ended because the store did not answer.
    n_failures
        Looks that failed otherwise, for instance at a folder that isn't there.
    """

    n_outages: int = 0
    n_failures: int = 0


class Watcher:
    """Keeps looking into the folders of several sources.

    Only files count whose name is an epoch; temporary names and sub-folders
    are passed over. If the store does not answer, the file stays and is tried
    again, more and more seldom. The folders do not wait for one another.

    Parameters
    ----------
    ingest
        Takes one file in.
    feeds
        The folders.
    poll_interval_s
        Time between two looks into a folder.
    max_batch
        At most so many files are taken in per look.
    """

    def __init__(
        self,
        ingest: Ingest,
        feeds: Sequence[Feed],
        poll_interval_s: float,
        max_batch: int = 64,
    ) -> None:
        self.counts = WatcherCounts()
        self._ingest = ingest
        self._feeds = tuple(feeds)
        self._poll_interval_s = poll_interval_s
        self._max_batch = max_batch
        self._stuck: dict[Path, set[str]] = {feed.directory: set() for feed in self._feeds}

    async def run(self, stop: asyncio.Event) -> None:
        """Take files in until `stop` is set; a file under way is finished first."""
        async with asyncio.TaskGroup() as tasks:
            for feed in self._feeds:
                tasks.create_task(self._watch(feed, stop), name=f"watch {feed.source}")

    async def look(self, feed: Feed, stop: asyncio.Event | None = None) -> int:
        """Take in what lies in a folder now, oldest epoch first; return how many files went.

        Parameters
        ----------
        feed
            The folder.
        stop
            Ends the look after the file under way.

        Raises
        ------
        UnavailableError
            If the store does not answer.
        OSError
            If the folder cannot be read.
        """
        stuck = self._stuck[feed.directory]
        names = await asyncio.to_thread(epoch_names, feed.directory)
        stuck &= names
        batch = heapq.nsmallest(self._max_batch, names - stuck, key=self._place)
        n_gone = 0
        for name in batch:
            if stop is not None and stop.is_set():
                break
            outcome = await self._ingest.take(feed, feed.directory / name)
            if outcome is Outcome.STUCK:
                stuck.add(name)
            n_gone += outcome not in _LEFT_ALONE
        return n_gone

    def _place(self, name: str) -> Epoch:
        """Return where a file comes in the order of time; local epochs start again at 0."""
        return self._ingest.universal(Epoch.from_file_name(name))

    async def _watch(self, feed: Feed, stop: asyncio.Event) -> None:
        delay_s = self._poll_interval_s
        while not stop.is_set():
            try:
                n_gone = await self.look(feed, stop)
                delay_s = 0.0 if n_gone == self._max_batch else self._poll_interval_s
            except UnavailableError as error:
                self.counts.n_outages += 1
                delay_s = self._longer(delay_s)
                self._report("taking in waits for the store", feed, error, delay_s)
            except Exception as error:  # noqa: BLE001 - the edge of the loop: log, count, go on
                self.counts.n_failures += 1
                delay_s = self._longer(delay_s)
                self._report("taking in failed", feed, error, delay_s)
            await pause(stop, delay_s)

    def _longer(self, delay_s: float) -> float:
        return min(max(2 * delay_s, self._poll_interval_s), _MAX_BACK_OFF_S)

    @staticmethod
    def _report(event: str, feed: Feed, error: Exception, delay_s: float) -> None:
        _logger.warning(
            event,
            extra={
                "source": feed.source,
                "directory": str(feed.directory),
                "reason": f"{type(error).__name__}: {error}",
                "again_in_s": round(delay_s, 3),
            },
        )
