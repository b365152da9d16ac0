"""ingest - one type-7 file becomes one final key in the inbox, exactly once."""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.epochs.finalkey import FinalKeyFile, read_final_key
from kme.errors import EpochFileError, UnavailableError
from kme.files import set_aside, sync_directory
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.folders import universal
from kme.ingest.room import MAX_WAITING_KEYS, InboxRoom
from kme.secret import Secret
from kme.store.ports import InboxStore
from kme.store.records import PART_BYTES
from kme.units import BITS_PER_BYTE

_logger = logging.getLogger(__name__)

UNFINISHED_S: Final = 2.0
"""A bad file that was written to within so many seconds may not be finished yet."""

_MAX_UNSURE: Final = 10_000

_GIVEN: Final = ".given-"
"""So begins a file's name while the store is given its key: what is found so at a start,
a killed process left."""


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
        self._unsure = _Unsure()

    async def take(self, feed: Feed, path: Path) -> Outcome:
        """Take one file in, exactly once, or set it aside.

        A file of an epoch that came in before is set aside, not removed: its
        bytes may be others than those that came in. It is removed if just
        these bytes were given to the store before and no answer was heard.

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
        try:
            final = await asyncio.to_thread(read_final_key, path)
        except EpochFileError as error:
            return await self._refuse(path, error)
        parts = split(final)
        if not parts:
            _logger.info("empty final key removed", extra={"path": str(path)})
            self.counts.n_empty += 1
            return await self._remove(path, path, Outcome.EMPTY)
        try:
            return await self._offer(feed, path, final, parts)
        finally:
            for secret in (final.key, *parts):
                secret.wipe()

    async def _offer(
        self, feed: Feed, path: Path, final: FinalKeyFile, parts: Sequence[Secret]
    ) -> Outcome:
        """Give a final key to the store, and do with its file what follows from the answer."""
        epoch, mark = self.universal(final.start_epoch), self._unsure.mark(final.key)
        await self._room.require(feed.peer, feed.source, len(parts))
        try:
            given = await asyncio.to_thread(_hand_out, path)
        except FileNotFoundError:
            return Outcome.GONE
        try:
            is_new = await self._store.ingest(feed.peer, feed.source, epoch, parts)
        except BaseException as error:
            if isinstance(error, UnavailableError):
                self._unsure.add(path, mark)
            _take_back(given, path)
            raise
        if not (self._unsure.take(path, mark) or is_new):
            _take_back(given, path)
            _logger.warning(
                "epoch came in before; its file is set aside, the bytes may differ",
                extra={"path": str(path), "epoch": str(epoch), "source": feed.source},
            )
            self.counts.n_duplicates += 1
            return await self._set_aside(path, Outcome.DUPLICATE)
        self.counts.n_ingested += 1
        self.counts.n_bytes += sum(len(part) for part in parts)
        _logger.debug("final key taken in", extra={"epoch": str(epoch), "source": feed.source})
        return await self._remove(path, given, Outcome.INGESTED)

    def recover(self, feed: Feed) -> None:
        """Take up the files that an earlier process was killed with, before any is taken in.

        The store may have their keys already; then they are removed in the end.

        Parameters
        ----------
        feed
            The folder; one that cannot be read is left alone.
        """
        with contextlib.suppress(OSError):
            for given in feed.directory.glob(f"{_GIVEN}????????"):
                path = given.with_name(given.name.removeprefix(_GIVEN))
                _take_back(given, path)
                with contextlib.suppress(EpochFileError):
                    self._unsure.add(path, self._unsure.mark(read_final_key(path).key))

    def universal(self, epoch: Epoch) -> Epoch:
        """Return the universal epoch nearest to now that a file's epoch stands for."""
        return universal(epoch, self._clock)

    async def _refuse(self, path: Path, error: EpochFileError) -> Outcome:
        if isinstance(error.__cause__, FileNotFoundError):
            return Outcome.GONE
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

    async def _remove(self, path: Path, given: Path, outcome: Outcome) -> Outcome:
        try:
            await asyncio.to_thread(_unlink, given)
        except OSError as error:
            _take_back(given, path)
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


class _Unsure:
    """Files whose final key may be in the store already: it did not answer when it was given it.

    A file is known by its path and a digest of its key under a key of this process.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._marks: dict[Path, bytes] = {}

    def mark(self, key: Secret) -> bytes:
        """Return the digest of a final key."""
        return hashlib.blake2b(key.reveal(), key=self._key, digest_size=16).digest()

    def add(self, path: Path, mark: bytes) -> None:
        """Remember a file; the oldest one is forgotten if there are too many."""
        self._marks[path] = mark
        if len(self._marks) > _MAX_UNSURE:
            del self._marks[next(iter(self._marks))]

    def take(self, path: Path, mark: bytes) -> bool:
        """Forget a file, and return whether it was just this one."""
        return self._marks.pop(path, None) == mark


def split(final: FinalKeyFile) -> list[Secret]:
    """Return the whole bytes of a final key, in parts that the inbox takes.

    Up to 7 bits at the end are left out; both KMEs leave out the same.
    """
    whole = final.key[: final.n_bits // BITS_PER_BYTE]
    return [whole[begin : begin + PART_BYTES] for begin in range(0, len(whole), PART_BYTES)]


def _hand_out(path: Path) -> Path:
    """Rename a file that the store is about to be given, and return what it is called now."""
    given = path.with_name(f"{_GIVEN}{path.name}")
    try:
        return path.rename(given)
    except FileNotFoundError:
        raise
    except OSError:
        return path  # nor will it be possible to remove it, which is said then


def _take_back(given: Path, path: Path) -> None:
    """Give a file its name back, unless another one has it."""
    with contextlib.suppress(OSError):
        if given != path and not path.exists():
            given.rename(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    sync_directory(path.parent)
