"""events - the raw event stream: when a detector clicked (49 bits of 125 ps) and which one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kme.errors import EpochFileError, InputError
from kme.files import write_whole

RECORD_BYTES: Final = 8
TIME_BITS: Final = 49
TIME_PERIOD_TICKS: Final = 1 << TIME_BITS
"""Times start again from 0 after 2^49 ticks = 19 h 32 min 48.7 s."""

_RESERVED: Final = 0x7F00
"""Bits 14 to 8 of a record: parts of a tick (14 to 10) and marks of fast readers."""

MAX_FILE_EVENTS: Final = 1 << 28
"""A file with more events is read in chunks or not at all."""


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Detections of one side, in the order in which they were recorded.

    Patterns say which bit of the key an event becomes, so they are never
    printed.

    Parameters
    ----------
    times_ticks : (n,) ndarray of int64
        Times in ticks of 125 ps, ``0 <= t < 2**49``; they wrap.
    patterns : (n,) ndarray of uint8
        Lowest byte of the record: bit k - 1 for detector k (1 V, 2 "-", 4 H,
        8 "+"), several for a coincidence on this side, 16 for a dummy event
        and 32 for a self-test.
    """

    times_ticks: NDArray[np.int64]
    patterns: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.times_ticks.ndim != 1 or self.times_ticks.shape != self.patterns.shape:
            raise InputError(
                f"events have times of shape {self.times_ticks.shape}"
                f" and patterns of shape {self.patterns.shape}; both must be (n,)"
            )

    def __len__(self) -> int:
        return int(self.times_ticks.size)

    def __repr__(self) -> str:
        return f"Events(n={len(self)})"

    @classmethod
    def empty(cls) -> Self:
        """Return no events at all."""
        return cls(np.empty(0, np.int64), np.empty(0, np.uint8))

    @classmethod
    def concatenate(cls, parts: Iterable["Events"]) -> Self:
        """Return the events of all parts, one behind the other."""
        kept = list(parts)
        if not kept:
            return cls.empty()
        return cls(
            np.concatenate([part.times_ticks for part in kept]),
            np.concatenate([part.patterns for part in kept]),
        )

    def part(self, which: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Events":
        """Return a stretch of the events, or those that a mask or places select."""
        return Events(self.times_ticks[which], self.patterns[which])

    def unwrapped_ticks(self) -> NDArray[np.int64]:
        """Return times that go on growing where the recorded ones wrap at 2^49.

        Each step is taken to be the shorter of the two ways round, so an event
        may also lie a little before its predecessor.

        Returns
        -------
        (n,) ndarray of int64
            Times in ticks; the first one as recorded.
        """
        return unwrap_ticks(self.times_ticks)

    def pack(self) -> bytes:
        """Return the events as records of 8 bytes.

        Raises
        ------
        InputError
            If a time doesn't fit into 49 bits.
        """
        times = self.times_ticks
        if times.size and not 0 <= int(times.min()) <= int(times.max()) < TIME_PERIOD_TICKS:
            raise InputError(f"event times must be in 0..2^{TIME_BITS} - 1 ticks")
        words = np.empty((times.size, 2), dtype="<u4")
        words[:, 0] = times >> 17
        words[:, 1] = (times & 0x1FFFF) << 15 | self.patterns
        return words.tobytes()

    @classmethod
    def unpack(cls, data: bytes | memoryview, name: Path | str, start_bytes: int = 0) -> Self:
        """Read records of 8 bytes each.

        Parameters
        ----------
        data
            The records, nothing else.
        name
            The file or stream that they are from, for errors.
        start_bytes
            Where in that file `data` begins.

        Raises
        ------
        EpochFileError
            If the last record is cut off, or one has bits set that must not be.
        """
        whole, rest = divmod(len(data), RECORD_BYTES)
        if rest:
            raise EpochFileError(
                name,
                start_bytes + whole * RECORD_BYTES,
                f"the last event is cut off: {rest} of {RECORD_BYTES} bytes",
            )
        words = np.frombuffer(data, dtype="<u4").reshape(-1, 2)
        reserved = words[:, 1] & np.uint32(_RESERVED)
        if reserved.any():
            at = int(np.argmax(reserved != 0)) * RECORD_BYTES
            raise EpochFileError(
                name, start_bytes + at, "an event has bits 14 to 8 set, which must be 0"
            )
        times = words[:, 0].astype(np.int64) << 17 | words[:, 1] >> np.uint32(15)
        return cls(times, words[:, 1].astype(np.uint8))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a whole file of raw events.

        Raises
        ------
        EpochFileError
            If the file breaks the format.
        InputError
            If it cannot be read.
        """
        parts: list[Events] = []
        n_events = 0
        try:
            with path.open("rb", buffering=0) as stream:
                for part in read_chunks(stream, path):
                    n_events += len(part)
                    if n_events > MAX_FILE_EVENTS:
                        raise EpochFileError(path, 0, f"more than {MAX_FILE_EVENTS} events")
                    parts.append(part)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        return cls.concatenate(parts)

    def write(self, path: Path) -> None:
        """Write a whole file of raw events, readable by its owner only.

        Raises
        ------
        InputError
            If a time doesn't fit into 49 bits, or the file cannot be written.
        """
        write_whole(path, self.pack(), mode=0o600)


class ByteSource(Protocol):
    """A file or a pipe, opened unbuffered: a read returns what there is by now."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes, none at the end."""
        ...


def read_chunks(stream: ByteSource, name: Path | str, n_events: int = 1 << 18) -> Iterator[Events]:
    """Read raw events from a file or a pipe as they come.

    Parameters
    ----------
    stream
        Where from; it need not be seekable.
    name
        Its name, for errors.
    n_events
        At most how many events are handed on at once.

    Yields
    ------
    Events
        Never empty.

    Raises
    ------
    EpochFileError
        If the stream breaks the format; whole events before that place were
        handed on.
    """
    start_bytes = 0
    rest = b""
    while fresh := stream.read(n_events * RECORD_BYTES - len(rest)):
        data = rest + fresh
        n_whole_bytes = len(data) - len(data) % RECORD_BYTES
        if n_whole_bytes:
            yield Events.unpack(memoryview(data)[:n_whole_bytes], name, start_bytes)
        rest = data[n_whole_bytes:]
        start_bytes += n_whole_bytes
    if rest:
        Events.unpack(rest, name, start_bytes)


def unwrap_ticks(times_ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Continue times of 49 bits beyond their wrap; see `Events.unwrapped_ticks`."""
    half = TIME_PERIOD_TICKS // 2
    steps = (np.diff(times_ticks) + half) % TIME_PERIOD_TICKS - half
    unwrapped = np.empty_like(times_ticks)
    unwrapped[:1] = times_ticks[:1]
    unwrapped[1:] = steps
    return np.cumsum(unwrapped, dtype=np.int64)
