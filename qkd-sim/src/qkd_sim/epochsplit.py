"""epochsplit - a raw event stream, checked for order and cut at the borders of epochs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.clock import Clock
from kme.ids import Epoch
from kme.units import TICKS_PER_EPOCH
from qkd_sim.errors import EventOrderError
from qkd_sim.events import RECORD_BYTES, Events
from qkd_sim.kernels.ordering import judge_events

MAX_STRAYS: Final = 5
"""One more event that far out of place, and the stream is given up."""

_EPOCH_TICK_BITS: Final = 32
_LOCAL_PERIOD: Final = 1 << Epoch.LOCAL_BITS
_UNIVERSAL_PERIOD: Final = 1 << Epoch.BITS


@dataclass(frozen=True, slots=True)
class SplitRules:
    """How a stream is cut.

    Parameters
    ----------
    clock
        Universal time of the first event, for epochs counted from 1970; None
        for local epochs as they are recorded.
    max_gap_ticks
        An event that follows the one before it by more is ignored, 0 for no
        such limit.
    n_skipped_events
        That many first events are not looked at.
    is_last_kept
        Whether the epoch in which the stream ends counts, although it may be
        cut off.
    """

    clock: Clock | None = None
    max_gap_ticks: int = 0
    n_skipped_events: int = 0
    is_last_kept: bool = False


@dataclass(frozen=True, slots=True)
class EpochEvents:
    """Events of one epoch.

    Parameters
    ----------
    epoch, is_universal
        Which epoch, and in which count.
    events
        At least one, in order of time, with times as recorded.
    n_ignored
        How many events were ignored while this epoch was open.
    """

    epoch: Epoch
    is_universal: bool
    events: Events
    n_ignored: int = 0

    @property
    def offsets_ticks(self) -> NDArray[np.int64]:
        """Event times within the epoch, in ticks."""
        return self.events.times_ticks & (TICKS_PER_EPOCH - 1)


def universal_epoch(raw_epoch: int, unix_s: float) -> Epoch:
    """Return the universal epoch of an event that was recorded lately.

    Parameters
    ----------
    raw_epoch
        Highest 17 bits of the event's time; the recording clock must run on
        universal time.
    unix_s
        Seconds since 1970 by now.

    Notes
    -----
    The 17 bits repeat after 19.5 h. The quarter of that period in which they
    and the time of day lie tells which repetition is meant, as in the C
    programs: events may be 9.8 h old (at best 14.6 h) or 4.9 h ahead.

    Examples
    --------
    >>> universal_epoch(0x04F86, unix_s=1795206532).file_name
    'c74e4f86'
    """
    now = (int(unix_s) * 1953125 >> 20) % _UNIVERSAL_PERIOD  # 2^20 / 1953125 s is one epoch
    quarters = (raw_epoch >> 15, now >> 15 & 3)
    correction = {(0, 3): 1, (2, 0): -1, (3, 0): -1, (3, 1): -1}.get(quarters, 0)
    number = now // _LOCAL_PERIOD * _LOCAL_PERIOD + raw_epoch + correction * _LOCAL_PERIOD
    return Epoch(number % _UNIVERSAL_PERIOD)


def following(epoch: Epoch, *, is_universal: bool) -> Epoch:
    """Return the epoch after this one; local epochs start again after 17 bits."""
    period = _UNIVERSAL_PERIOD if is_universal else _LOCAL_PERIOD
    return Epoch((epoch.number + 1) % period)


def split_epochs(
    chunks: Iterable[Events],
    rules: SplitRules = SplitRules(),
    name: Path | str = "events",
) -> Iterator[EpochEvents]:
    """Cut a stream into epochs; what isn't in order is ignored, within limits.

    An event earlier than its predecessor is ignored. So is one that lies more
    than one epoch away, but the sixth of these since the last epoch that began
    well ends the work: the clock was reset, or the stream has a gap.

    Parameters
    ----------
    chunks
        The stream, see `qkd_sim.events.read_chunks`; at most one epoch of it
        is held in memory.
    rules
        What to skip, and how to count.
    name
        The file or stream, for errors.

    Yields
    ------
    EpochEvents
        Consecutive epochs.

    Raises
    ------
    EventOrderError
        If too many events lie too far away.
    EpochFileError
        If `chunks` raises it.
    """
    splitter = _Splitter(rules, name)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    if rules.is_last_kept:
        yield from splitter.finish()


class _Splitter:
    """What is remembered of a stream between two chunks."""

    def __init__(self, rules: SplitRules, name: Path | str) -> None:
        self._rules = rules
        self._name = name
        self._memory = np.array([-1, -1, 0], np.int64)
        self._n_events = 0
        self._epoch: Epoch | None = None
        self._raw_epoch = -1
        self._first_event = 0  # place in the stream at which the open epoch began
        self._parts: list[Events] = []

    def feed(self, chunk: Events) -> Iterator[EpochEvents]:
        """Take some events; hand over the epochs that are complete by now."""
        places = self._in_order(chunk)
        events = chunk if places.size == len(chunk) else chunk.part(places)
        raw_epochs = events.times_ticks >> _EPOCH_TICK_BITS
        borders = np.flatnonzero(np.diff(raw_epochs)) + 1
        for start, end in pairwise([0, *borders.tolist(), len(events)]):
            if start == end:
                continue
            if raw_epochs[start] != self._raw_epoch:
                first_event = self._n_events + int(places[start])
                yield from self._close(first_event)
                self._open(int(raw_epochs[start]), first_event)
            self._parts.append(events.part(slice(start, end)))
        self._n_events += len(chunk)

    def finish(self) -> Iterator[EpochEvents]:
        """Hand over the epoch that is open at the end, if there is one."""
        return self._close(self._n_events)

    def _close(self, end_event: int) -> Iterator[EpochEvents]:
        """Hand over the open epoch, which ends before this place in the stream."""
        if self._epoch is None:
            return
        events = Events.concatenate(self._parts)
        n_ignored = end_event - self._first_event - len(events)
        yield EpochEvents(self._epoch, self._rules.clock is not None, events, n_ignored)

    def _open(self, raw_epoch: int, first_event: int) -> None:
        """Open an epoch; only the first one asks for the time."""
        clock = self._rules.clock
        if self._epoch is not None:
            self._epoch = following(self._epoch, is_universal=clock is not None)
            self._first_event = first_event
        elif clock is None:
            self._epoch = Epoch(raw_epoch)
        else:
            self._epoch = universal_epoch(raw_epoch, clock.now_s())
        self._raw_epoch = raw_epoch
        self._parts = []

    def _in_order(self, chunk: Events) -> NDArray[np.intp]:
        """Return which events of the chunk count."""
        start = min(max(self._rules.n_skipped_events - self._n_events, 0), len(chunk))
        verdicts = np.empty(len(chunk) - start, np.uint8)
        failed_at = judge_events(
            np.ascontiguousarray(chunk.times_ticks[start:], np.int64),
            self._rules.max_gap_ticks,
            MAX_STRAYS,
            self._memory,
            verdicts,
        )
        if failed_at >= 0:
            place = self._n_events + start + failed_at
            raise EventOrderError(
                self._name,
                place * RECORD_BYTES,
                f"event {place} is the {MAX_STRAYS + 1}th that lies more than one epoch (0.54 s)"
                " away from the last good one: the clock was reset, or the stream has a gap",
            )
        return np.flatnonzero(verdicts == 0) + start
