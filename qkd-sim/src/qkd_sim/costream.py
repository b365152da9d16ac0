"""costream - coincidences and sifting, high-count side: types 1 and 2 to sifted key and type 4."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from kme.ids import Epoch
from kme.units import TICKS_PER_EPOCH
from qkd_sim.kernels.coincide import HEC_USED_UP, PROGRESS, Windows, coincide
from qkd_sim.packets import Type1, Type2, Type3, Type4
from qkd_sim.protocols import N_PATTERNS, PATTERN_MASK, sifting
from qkd_sim.sifted import SiftedEpoch, Summary, log_line, summary_line

__all__ = [
    "CostreamSettings",
    "SiftedEpoch",
    "Summary",
    "ZeroPolicy",
    "log_line",
    "sift",
    "summary_line",
]

FIRST_WIDTH_BITS: Final = 8
"""Width of an index in the first type-4 packet."""

MIN_WIDTH_BITS: Final = 3
MAX_WIDTH_BITS: Final = 20
MAX_WINDOW_TICKS: Final = 1 << 24
MAX_OFFSET_TICKS: Final = 1 << 48
MAX_TRACKING_CONSTANT: Final = 1 << 31
TICKS_PER_MICROSECOND: Final = 8000
MAX_TRACKING_GAP_TICKS: Final = 800_000_000
"""After 100 ms without a pair the drift is not extrapolated."""

FILTER_UNIT: Final = 4096
LONG_AGO: Final = -(1 << 61)
NEVER: Final = 1 << 61


class ZeroPolicy(IntEnum):
    """Which files an epoch without a single kept coincidence leaves."""

    NOTHING = 0
    INDICES = 1
    BOTH = 2


@dataclass(frozen=True, slots=True)
class CostreamSettings:
    """What counts as a coincidence, and how the clock is followed.

    Parameters
    ----------
    offset_ticks
        Low-count side's clock less the high-count side's, in ticks of 125 ps, at
        the start (what `pfind` finds).
    window_ticks
        Pairs less than this apart are coincidences.
    tracking_window_ticks
        Pairs less than this apart steer the clock.
    accidental_distance_ticks
        Pairs up to two windows less than this apart are counted as accidental.
    tracking_constant
        0 does not follow the clock. Above 0: a pair corrects it by its distance
        over this number of pairs. Below 0: the filter's time constant is half
        this number of microseconds.
    protocol
        Number of the protocol, see `qkd_sim.protocols`.
    width_filter
        Over how many epochs the width of indices adapts, 0 for never.
    skews_ticks
        Added to the high-count side's times of detectors 1, 2, 4 and 8.
    allows_gaps
        Go on over missing epochs instead of calling them an error.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    offset_ticks: int
    window_ticks: int = 8
    tracking_window_ticks: int = 40
    accidental_distance_ticks: int = 160
    tracking_constant: int = 0
    protocol: int = 1
    width_filter: int = 0
    skews_ticks: tuple[int, int, int, int] = (0, 0, 0, 0)
    allows_gaps: bool = False

    def __post_init__(self) -> None:
        most = MAX_WINDOW_TICKS
        for name, value, low, high in (
            ("offset", self.offset_ticks, -MAX_OFFSET_TICKS, MAX_OFFSET_TICKS),
            ("window", self.window_ticks, 1, most),
            ("tracking window", self.tracking_window_ticks, 1, most),
            ("accidental distance", self.accidental_distance_ticks, 0, most),
            ("tracking constant", abs(self.tracking_constant), 0, MAX_TRACKING_CONSTANT),
            ("width filter", self.width_filter, 0, most),
            *(("skew", skew, -most, most) for skew in self.skews_ticks),
        ):
            if not low <= value <= high:
                raise InputError(f"{name} is {value}, must be in {low}..{high}")

    @property
    def windows(self) -> Windows:
        """The same for the kernel."""
        constant = self.tracking_constant
        gap_ticks = -constant * TICKS_PER_MICROSECOND if constant < 0 else 0
        return Windows(
            offset_ticks=self.offset_ticks,
            window_ticks=self.window_ticks,
            tracking_ticks=self.tracking_window_ticks,
            accidental_ticks=self.accidental_distance_ticks,
            gain=FILTER_UNIT // constant if constant > 0 else 0,
            divisor=gap_ticks // FILTER_UNIT,
            max_gap_ticks=min(gap_ticks, MAX_TRACKING_GAP_TICKS),
        )


def sift(
    hec: Iterable[Type1], lec: Iterable[Type2], settings: CostreamSettings
) -> Iterator[SiftedEpoch]:
    """Find coincidences epoch by epoch and keep those that make key.

    Parameters
    ----------
    hec
        Packets of the high-count side in order. One more than the last of `lec`
        is asked for, because a coincidence may end there.
    lec
        Packets of the low-count side, in order.
    settings
        What counts as a coincidence.

    Yields
    ------
    SiftedEpoch
        One for each packet of `lec`.

    Raises
    ------
    InputError
        If an epoch is missing, comes twice, or is of another protocol.

    Notes
    -----
    Pairs are formed greedily in order of time, and the clock's drift is followed
    with every pair, so the search is one pass over both streams.
    """
    search = _Search(iter(hec), settings)
    for packet in lec:
        yield search.epoch(packet)


@dataclass(slots=True)
class _EpochCounter:
    """Counts epochs from the first one on, also beyond the wrap of their number."""

    side: str
    allows_gaps: bool
    previous: Epoch | None = None
    position: int = 0
    has_advanced: bool = False

    def start(self, epoch: Epoch) -> None:
        """Say which epoch has position 0."""
        self.previous = epoch

    def advance(self, epoch: Epoch, *, is_universal: bool) -> int:
        """Return the position of the next packet's epoch.

        Raises
        ------
        InputError
            If it isn't the one behind the last.
        """
        previous = self.previous or epoch
        period = 1 << (Epoch.BITS if is_universal else Epoch.LOCAL_BITS)
        step = (epoch.number - previous.number + period // 2) % period - period // 2
        if self.has_advanced and (step < 1 or (step > 1 and not self.allows_gaps)):
            what = "a gap" if step > 1 else "no step forward"
            raise InputError(
                f"{self.side} packet of epoch {epoch} follows that of {previous}: {what}"
            )
        self.previous, self.has_advanced = epoch, True
        self.position += step
        return self.position


@dataclass(slots=True)
class _IndexWidth:
    """How many bits an index of type 4 has; follows the mean distance of kept events."""

    filter_epochs: int
    state: int = FIRST_WIDTH_BITS << 8
    n_bits: int = FIRST_WIDTH_BITS

    def adapt(self, n_events: int, n_kept: int) -> None:
        """Take one epoch into account."""
        if not self.filter_epochs or not n_kept:
            return
        gap = max(8, n_events // n_kept)
        best = int(16 * (math.log2(gap) + 2.2117))
        self.state += int((16 * best - self.state) / self.filter_epochs)
        self.n_bits = min(max(self.state >> 8, MIN_WIDTH_BITS), MAX_WIDTH_BITS)


@dataclass(slots=True, eq=False)
class _HecEvents:
    """Events of the type-1 packet at hand, times counted from the start epoch."""

    ticks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    patterns: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    n_events: int = 0


class _Search:
    """The search as it stands between two epochs."""

    def __init__(self, hec: Iterator[Type1], settings: CostreamSettings) -> None:
        self._hec_packets = hec
        self._windows = settings.windows
        self._protocol, self._sifting = sifting(settings.protocol)
        self._hec_counter = _EpochCounter("type-1", settings.allows_gaps)
        self._lec_counter = _EpochCounter("type-2", settings.allows_gaps)
        self._hec_ended = False
        self._skews = np.zeros(N_PATTERNS, np.int64)
        self._skews[[1, 2, 4, 8]] = settings.skews_ticks
        self._hec = _HecEvents()
        self._width = _IndexWidth(settings.width_filter)
        self._progress = np.zeros(1, PROGRESS).view(np.recarray)
        self._progress["hec_is_used"] = self._progress["lec_is_used"] = 1
        self._progress["hec_ticks"] = self._progress["last_tracked_ticks"] = LONG_AGO

    def epoch(self, packet: Type2) -> SiftedEpoch:
        """Search one type-2 packet for coincidences."""
        if packet.protocol != self._protocol.number:
            raise InputError(
                f"type-2 packet of epoch {packet.epoch} is of protocol {packet.protocol},"
                f" not {self._protocol.number}"
            )
        if packet.base_bits != self._sifting.high.other_bits:
            raise InputError(f"type-2 packet of epoch {packet.epoch}: wrong number of base bits")
        position = self._lec_counter.advance(packet.epoch, is_universal=packet.is_universal)
        if self._hec_counter.previous is None:
            self._hec_counter.start(packet.epoch)
        ticks = packet.offsets_ticks + position * TICKS_PER_EPOCH
        n = ticks.size
        pairs = (np.empty(n, np.uint8), np.empty(n, np.int64), np.empty(n, np.int64))
        for name in ("lec_next", "n_pairs", "n_accidentals"):
            self._progress[name] = 0
        while self._coincide(ticks, pairs) == HEC_USED_UP:
            self._load_hec()
        reached = self._hec_counter.position if self._hec_counter.has_advanced else -1
        if self._hec_ended and reached < position:
            raise InputError(f"the type-1 packets end before epoch {packet.epoch}")
        n_pairs = int(self._progress["n_pairs"][0])
        return self._sifted(packet, pairs[0][:n_pairs], pairs[1][:n_pairs])

    def _coincide(
        self,
        lec_ticks: NDArray[np.int64],
        pairs: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
    ) -> int:
        """Run the kernel on the events at hand."""
        hec = self._hec
        return coincide(self._windows, self._progress, hec.ticks, hec.patterns, lec_ticks, pairs)

    def _load_hec(self) -> None:
        """Read the next type-1 packet, or take note that there is none."""
        self._progress["hec_next"] = 0
        packet = next(self._hec_packets, None)
        if packet is None:
            self._hec_ended = True
            end = np.array([NEVER]), np.zeros(1, np.uint8)
            self._hec = _HecEvents(*end, self._hec.n_events)
            return
        position = self._hec_counter.advance(packet.epoch, is_universal=packet.is_universal)
        patterns = packet.events.patterns & np.uint8(PATTERN_MASK)
        ticks = packet.events.times_ticks % TICKS_PER_EPOCH + position * TICKS_PER_EPOCH
        self._hec = _HecEvents(ticks + self._skews[patterns], patterns, len(packet.events))

    def _sifted(
        self, packet: Type2, patterns: NDArray[np.uint8], indices: NDArray[np.int64]
    ) -> SiftedEpoch:
        """Keep the coincidences that the protocol keeps, and make the packets."""
        decision = self._sifting.high
        at = decision.index(patterns, packet.bases[indices])
        is_key, is_test = decision.is_key[at], decision.is_test[at]
        is_kept = is_key | is_test
        kept, value = indices[is_kept], decision.value[at]
        width_bits, data = self._width.n_bits, decision.answer[at][is_kept]
        epoch, is_universal = packet.epoch, packet.is_universal
        self._width.adapt(len(packet.bases), len(kept))
        tests = None
        if self._sifting.high_test_bits:
            tests = Type3(epoch, value[is_test], self._sifting.high_test_bits, is_universal)
        answer_bits = self._sifting.answer_bits
        return SiftedEpoch(
            indices=Type4(epoch, kept, data, width_bits, answer_bits, is_universal),
            key=Type3(epoch, value[is_key], self._sifting.key_bits, is_universal),
            tests=tests,
            n_lec_events=len(packet.bases),
            n_hec_events=self._hec.n_events,
            n_coincidences=len(indices),
            n_accidentals=int(self._progress["n_accidentals"][0]),
            shift_ticks=int(int(self._progress["filter"][0]) / FILTER_UNIT),
            next_width_bits=self._width.n_bits,
        )
