"""notices - words from the FIFO become files taken in; no file is left out, whatever is written."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kme.epochs.notify import Notice, NoticeFifo, NoticeLines
from kme.errors import InputError
from kme.ids import Epoch
from kme.ingest.folders import epoch_names
from kme.ingest.ingest import Feed
from kme.ingest.intake import Intake

_logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""So often the FIFO is looked at: is it still what writers find?"""

_QUIET_S: Final = 10.0
"""Between two complaints, and between two looks into all folders."""


@dataclass(slots=True)
class NoticeCounts:
    """What was heard since the process started.

    Parameters
    ----------
    n_heard
        Notices of links that are configured.
    n_garbage
        Lines that are no notices.
    n_unknown
        Notices of links that are not configured.
    n_fifo_lost
        Times that the FIFO was removed or replaced, and made anew.
    n_sweeps
        Times that all folders were looked at, whatever was announced.
    """

    n_heard: int = 0
    n_garbage: int = 0
    n_unknown: int = 0
    n_fifo_lost: int = 0
    n_sweeps: int = 0


class NoticeListener:
    """Waits for words on the FIFO and has the files taken in that they name.

    A word is a hint, never a path: only ids and epochs that keep their rules
    count, and only links that are configured. Words may be lost: with a
    listener that was killed, in a FIFO that somebody removed, in a line that
    garbage ran into. So all folders are looked at when it begins, and after
    each such event, and again after files were left because an inbox was full.

    Parameters
    ----------
    fifo
        Where words come from.
    intake
        Where files go. While it is full the FIFO isn't read: writers wait.
    feeds
        The folders.
    """

    def __init__(self, fifo: NoticeFifo, intake: Intake, feeds: Sequence[Feed]) -> None:
        self.counts = NoticeCounts()
        self._fifo = fifo
        self._intake = intake
        self._feeds = {(feed.peer, feed.source): feed for feed in feeds}
        self._lines = NoticeLines()
        self._is_in_place = False
        self._is_sweep_due = True
        self._swept_s = -_QUIET_S
        self._complained_s = -_QUIET_S
        self._n_complained = 0

    @property
    def is_listening(self) -> bool:
        """Whether writers find the FIFO that is listened to."""
        return self._is_in_place

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop` is set; files under way are finished first.

        Raises
        ------
        InputError
            If the FIFO cannot be made when this begins.
        """
        self._fifo.open()
        self._is_in_place = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._intake.run(stop), name="intake")
                listening = tasks.create_task(self._listen(), name="listen")
                await stop.wait()
                listening.cancel()
        finally:
            self._fifo.close()

    async def _listen(self) -> None:
        while True:
            self._look_at_fifo()
            await self._sweep_if_due()
            if not self._is_in_place:
                await asyncio.sleep(_LOOK_S)
                continue
            await self._wait_for_words()
            for notice in self._lines.feed(self._fifo.read()):
                await self._hear(notice)
            self._complain()

    def _look_at_fifo(self) -> None:
        """Make the FIFO anew if it isn't there any more."""
        if self._is_in_place and self._fifo.is_in_place():
            return
        if self._is_in_place:
            self.counts.n_fifo_lost += 1
            _logger.warning("the FIFO was removed or replaced; it is made anew")
        try:
            self._fifo.open()
        except InputError as error:
            if self._is_in_place:
                _logger.error("there is no FIFO", extra={"reason": error.message})
            self._is_in_place = False
            return
        self._is_in_place = True
        self._lines = NoticeLines()
        self._is_sweep_due = True

    async def _wait_for_words(self) -> None:
        """Wait until there is something to read, but no longer than until the next look."""
        loop = asyncio.get_running_loop()
        has_words = asyncio.Event()
        loop.add_reader(self._fifo.fileno(), has_words.set)
        try:
            async with asyncio.timeout(_LOOK_S):
                await has_words.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(self._fifo.fileno())

    async def _hear(self, notice: Notice | None) -> None:
        if notice is None:
            self.counts.n_garbage += 1
            # A word may have run into it.
            self._is_sweep_due = True
            return
        feed = self._feeds.get((notice.peer, notice.source))
        if feed is None:
            self.counts.n_unknown += 1
            return
        self.counts.n_heard += 1
        await self._intake.announce(feed, notice.epoch)

    def _complain(self) -> None:
        """Say how many words made no sense, seldom."""
        now_s = asyncio.get_running_loop().time()
        n_bad = self.counts.n_garbage + self.counts.n_unknown
        if n_bad == self._n_complained or now_s - self._complained_s < _QUIET_S:
            return
        self._complained_s, self._n_complained = now_s, n_bad
        _logger.warning(
            "lines on the FIFO that name no link of this KME; expected: peer/source/epoch",
            extra={"n_garbage": self.counts.n_garbage, "n_unknown": self.counts.n_unknown},
        )

    async def _sweep_if_due(self) -> None:
        """Have everything taken in that lies in the folders, unless that was done just now."""
        loop = asyncio.get_running_loop()
        self._is_sweep_due |= self._intake.take_full()
        if not self._is_sweep_due or loop.time() - self._swept_s < _QUIET_S:
            return
        self._is_sweep_due = False
        self._swept_s = loop.time()
        for feed in self._feeds.values():
            try:
                names = await asyncio.to_thread(epoch_names, feed.directory)
            except OSError as error:
                self._is_sweep_due = True
                _logger.warning(
                    "folder cannot be read",
                    extra={"directory": str(feed.directory), "reason": error.strerror},
                )
                continue
            for name in sorted(names):
                await self._intake.announce(feed, Epoch.from_file_name(name))
        self.counts.n_sweeps += 1
