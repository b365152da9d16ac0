"""ingest - one type-7 file becomes one final key in the inbox, exactly once."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.epochs.finalkey import FinalKeyFile, read_final_key
from kme.errors import EpochFileError, InputError
from kme.files import set_aside, sync_directory
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.folders import universal
from kme.ingest.given import given_name, hand_out, is_there, take_back, taken_by_one
from kme.ingest.room import MAX_WAITING_KEYS, InboxRoom
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


_IN_THE_WAY: Final = {Outcome.STUCK, Outcome.UNFINISHED}
"""A file of which this is said still has its name."""


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
    between the two leaves a file whose epoch the store refuses from then on,
    and whose name says that this is no wonder.

    Parameters
    ----------
    store
        Where final keys wait to be paired.
    clock
        Tells which universal epoch a local one stands for.
    max_waiting
        So many parts of final keys of one source may wait to be paired.
    """

    def __init__(
        self, store: InboxStore, clock: Clock, max_waiting: int = MAX_WAITING_KEYS
    ) -> None:
        self.counts = IngestCounts()
        self._store = store
        self._room = InboxRoom(store, clock, max_waiting)
        self._clock = clock

    async def take(self, feed: Feed, path: Path) -> Outcome:
        """Take one file in, exactly once, or set it aside.

        From before the store is given its key until it is removed a file is
        called `given_name`; its own name comes back only if the store has
        certainly refused it. A file that is found so is taken as `path`, and
        before the one that is called `path` by now. If the store says of it
        that its epoch came in before, the answer to an earlier try was lost:
        it is removed.

        Of a file that wasn't given before, the same answer means that it is a
        second one of its epoch. It is set aside, not removed: its bytes may be
        others than those that came in.

        Parameters
        ----------
        feed
            Whose file it is.
        path
            The file.

        Raises
        ------
        InboxFullError
            If too many final keys of the source wait to be paired; the file stays.
        UnavailableError
            If the store or the machine refuses for now; the file stays.
        """
        given = given_name(path)
        if await asyncio.to_thread(is_there, given):
            outcome = await self._take(feed, path, given)
            if outcome in _IN_THE_WAY or not await asyncio.to_thread(is_there, path):
                return outcome
        return await self._take(feed, path, path)

    async def _take(self, feed: Feed, path: Path, found: Path) -> Outcome:
        """Take in the file that is called `path`, or should be and was found under another name."""
        with taken_by_one(found) as is_ours:
            if not is_ours:
                return Outcome.UNFINISHED
            try:
                final = await asyncio.to_thread(read_final_key, found, path.name)
            except EpochFileError as error:
                return await self._refuse(path, found, error)
            parts = split(final)
            try:
                if parts:
                    return await self._offer(feed, path, found, final, parts)
                _logger.info("empty final key removed", extra={"path": str(found)})
                self.counts.n_empty += 1
                return await self._remove(found, Outcome.EMPTY)
            finally:
                for secret in (final.key, *parts):
                    secret.wipe()

    async def _offer(
        self, feed: Feed, path: Path, found: Path, final: FinalKeyFile, parts: Sequence[Secret]
    ) -> Outcome:
        """Give a final key to the store, and do with its file what follows from the answer."""
        epoch = self.universal(final.start_epoch)
        await self._room.require(feed.peer, feed.source, len(parts))
        given, was_given = found, found != path
        if not was_given:
            try:
                given = await asyncio.to_thread(hand_out, path)
            except FileNotFoundError:
                return Outcome.GONE
            except OSError as error:
                return self._stuck(path, error)
        try:
            is_new = await self._store.ingest(feed.peer, feed.source, epoch, parts)
        except InputError:
            if not was_given:
                take_back(given, path)  # any other error may hide that the key was stored
            raise
        if not (is_new or was_given):
            _logger.warning(
                "epoch came in before; its file is set aside, the bytes may differ",
                extra={"path": str(path), "epoch": str(epoch), "source": feed.source},
            )
            self.counts.n_duplicates += 1
            return await self._set_aside(path, take_back(given, path), Outcome.DUPLICATE)
        self.counts.n_ingested += 1
        self.counts.n_bytes += sum(len(part) for part in parts)
        _logger.debug("final key taken in", extra={"epoch": str(epoch), "source": feed.source})
        return await self._remove(given, Outcome.INGESTED)

    def universal(self, epoch: Epoch) -> Epoch:
        """Return the universal epoch nearest to now that a file's epoch stands for."""
        return universal(epoch, self._clock)

    async def _refuse(self, path: Path, found: Path, error: EpochFileError) -> Outcome:
        if isinstance(error.__cause__, FileNotFoundError):
            return Outcome.GONE
        if await asyncio.to_thread(self._is_unfinished, found):
            return Outcome.UNFINISHED
        _logger.warning(
            "bad epoch file is set aside",
            extra={
                "path": str(found),
                "offset_bytes": error.offset_bytes,
                "reason": error.message,
            },
        )
        self.counts.n_bad += 1
        return await self._set_aside(path, found, Outcome.BAD)

    def _is_unfinished(self, path: Path) -> bool:
        """Return whether a file may still be being written by a program that doesn't rename."""
        try:
            age_s = self._clock.now_s() - path.lstat().st_mtime
        except OSError:
            return False
        return -1.0 < age_s < UNFINISHED_S

    async def _remove(self, found: Path, outcome: Outcome) -> Outcome:
        try:
            await asyncio.to_thread(_unlink, found)
        except OSError as error:
            return self._stuck(found, error)
        return outcome

    async def _set_aside(self, path: Path, found: Path, outcome: Outcome) -> Outcome:
        try:
            await asyncio.to_thread(set_aside, found, path.name)
        except FileNotFoundError:
            return Outcome.GONE
        except OSError as error:
            return self._stuck(found, error)
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
