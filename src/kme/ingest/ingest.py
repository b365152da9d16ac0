"""ingest - one type-7 file becomes one final key in the inbox, exactly once."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.epochs.finalkey import FinalKeyFile, read_final_key
from kme.errors import EpochFileError
from kme.files import set_aside, sync_directory
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store.ports import InboxStore
from kme.store.records import PART_BYTES
from kme.units import BITS_PER_BYTE

_logger = logging.getLogger(__name__)

UNFINISHED_S: Final = 2.0
"""A bad file that was written to within so many seconds may not be finished yet."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A folder in which one source's epoch files arrive.

    Parameters
    ----------
    peer
        The KME that gets the same files at the other end.
    source
        What makes them.
    directory
        The folder.
    """

    peer: KmeId
    source: SourceId
    directory: Path


class Outcome(StrEnum):
    """What became of a file."""

    INGESTED = "ingested"
    EMPTY = "empty"
    DUPLICATE = "duplicate"
    BAD = "bad"
    UNFINISHED = "unfinished"
    GONE = "gone"
    STUCK = "stuck"


@dataclass(slots=True)
class IngestCounts:
    """What was taken in since the process started.

    Parameters
    ----------
    n_ingested, n_bytes
        Files taken in, and the key bytes in them.
    n_empty
        Files that held no whole byte of key; removed.
    n_duplicates
        Files of an epoch that came in before; set aside.
    n_bad
        Files that are no final key; set aside.
    n_stuck
        Files that can neither be removed nor set aside.
    """

    n_ingested: int = 0
    n_bytes: int = 0
    n_empty: int = 0
    n_duplicates: int = 0
    n_bad: int = 0
    n_stuck: int = 0


class Ingest:
    """Takes final key files into the inbox and removes them.

    A file is removed only after the store has its key durably. A crash
    between the two leaves a file whose epoch the store refuses from then on.

    Parameters
    ----------
    store
        Where final keys wait to be paired.
    clock
        Tells which universal epoch a local one stands for.
    """

    def __init__(self, store: InboxStore, clock: Clock) -> None:
        self.counts = IngestCounts()
        self._store = store
        self._clock = clock

    async def take(self, feed: Feed, path: Path) -> Outcome:
        """Take one file in, exactly once, or set it aside.

        A file of an epoch that came in before is set aside, not removed: its
        bytes may be others than those that came in.

        Parameters
        ----------
        feed
            Whose file it is.
        path
            The file.

        Raises
        ------
        UnavailableError
            If the store or the machine refuses for now; the file stays.
        """
        try:
            final = await asyncio.to_thread(read_final_key, path)
        except EpochFileError as error:
            return await self._refuse(path, error)
        parts = split(final)
        if not parts:
            _logger.info("empty final key removed", extra={"path": str(path)})
            self.counts.n_empty += 1
            return await self._remove(path, Outcome.EMPTY)
        epoch = self.universal(final.start_epoch)
        is_new = await self._store.ingest(feed.peer, feed.source, epoch, parts)
        for secret in (final.key, *parts):
            secret.wipe()
        if not is_new:
            _logger.warning(
                "epoch came in before; its file is set aside, the bytes may differ",
                extra={"path": str(path), "epoch": str(epoch), "source": feed.source},
            )
            self.counts.n_duplicates += 1
            return await self._set_aside(path, Outcome.DUPLICATE)
        self.counts.n_ingested += 1
        self.counts.n_bytes += sum(len(part) for part in parts)
        _logger.debug("final key taken in", extra={"epoch": str(epoch), "source": feed.source})
        return await self._remove(path, Outcome.INGESTED)

    def universal(self, epoch: Epoch) -> Epoch:
        """Return the universal epoch nearest to now that a file's epoch stands for."""
        return epoch.extended(near=Epoch.at_time(self._clock.now_s()))

    async def _refuse(self, path: Path, error: EpochFileError) -> Outcome:
        if await asyncio.to_thread(self._is_unfinished, path):
            return Outcome.UNFINISHED
        _logger.warning(
            "bad epoch file is set aside",
            extra={
                "path": str(path),
                "offset_bytes": error.offset_bytes,
                "reason": error.message,
            },
        )
        self.counts.n_bad += 1
        return await self._set_aside(path, Outcome.BAD)

    def _is_unfinished(self, path: Path) -> bool:
        """Return whether a file may still be being written by a program that doesn't rename."""
        try:
            age_s = self._clock.now_s() - path.lstat().st_mtime
        except OSError:
            return False
        return -1.0 < age_s < UNFINISHED_S

    async def _remove(self, path: Path, outcome: Outcome) -> Outcome:
        try:
            await asyncio.to_thread(_unlink, path)
        except OSError as error:
            return self._stuck(path, error)
        return outcome

    async def _set_aside(self, path: Path, outcome: Outcome) -> Outcome:
        try:
            await asyncio.to_thread(set_aside, path)
        except FileNotFoundError:
            return Outcome.GONE
        except OSError as error:
            return self._stuck(path, error)
        return outcome

    def _stuck(self, path: Path, error: OSError) -> Outcome:
        _logger.error(
            "epoch file can be neither removed nor set aside",
            extra={"path": str(path), "reason": error.strerror},
        )
        self.counts.n_stuck += 1
        return Outcome.STUCK


def split(final: FinalKeyFile) -> list[Secret]:
    """Return the whole bytes of a final key, in parts that the inbox takes.

    Up to 7 bits at the end are left out; both KMEs leave out the same.
    """
    whole = final.key[: final.n_bits // BITS_PER_BYTE]
    return [whole[begin : begin + PART_BYTES] for begin in range(0, len(whole), PART_BYTES)]


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    sync_directory(path.parent)
