"""pfind - types 1 and 2 to the offset between the two clocks, with its significance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.ndimage import uniform_filter1d

from kme.errors import InputError
from kme.ids import Epoch
from kme.units import TICKS_PER_EPOCH, TICKS_PER_NS
from qkd_sim.errors import OffsetNotFoundError
from qkd_sim.kernels.correlate import fold
from qkd_sim.offsetline import OffsetLine, Streams, lines_per_bin, narrowed, span_ticks
from qkd_sim.packets import Type1, Type2

__all__ = [
    "ClockOffset",
    "Correlation",
    "PfindSettings",
    "Streams",
    "correlate",
    "find_offset",
    "log_line",
    "read_streams",
    "shift_ticks",
]

MIN_ORDER: Final = 12
MAX_ORDER: Final = 24
MAX_RESOLUTION_NS: Final = 1 << 20
ENVELOPE_BINS: Final = 1025
"""What varies more slowly than this is not a peak but the rates."""

ALIASES: Final = (0, -1, 1)
"""Offsets that look alike after folding, in units of the folded length."""


@dataclass(frozen=True, slots=True)
class PfindSettings:
    """How to search.

    Parameters
    ----------
    order
        The search is over 2^`order` bins.
    resolution_ns
        Width of a bin, a power of two; bins times width is the range of offsets.
    max_p
        An offset that noise would show more probably than this is not found.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    order: int = 17
    resolution_ns: int = 2048
    max_p: float = 1e-6

    def __post_init__(self) -> None:
        if not MIN_ORDER <= self.order <= MAX_ORDER:
            raise InputError(f"order is {self.order}, must be in {MIN_ORDER}..{MAX_ORDER}")
        shift_ticks(self.resolution_ns)
        if not 0.0 < self.max_p <= 1.0:
            raise InputError(f"largest p-value is {self.max_p:g}, must be above 0 and up to 1")


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """What was found.

    Parameters
    ----------
    start_ticks
        Low-count side's clock less the high-count side's, in ticks of 125 ps, at
        the time of the high-count side's first event.
    drift
        How much faster it runs, relative.
    log10_p
        Decimal logarithm of the probability that noise shows such a peak
        anywhere in the search.
    sigma
        Height of the coarse peak over its surroundings, in standard deviations.
    n_pairs
        Coincidences in the peak, less the accidental ones expected there.
    """

    start_ticks: float
    drift: float
    log10_p: float
    sigma: float
    n_pairs: float

    @property
    def offset_ticks(self) -> int:
        """The offset at the start to the nearest tick."""
        return round(self.start_ticks)

    def rounded_ticks(self, resolution_ns: int) -> int:
        """Return the offset as a multiple of a resolution, as the C program gives it."""
        unit_ticks = resolution_ns * TICKS_PER_NS
        return round(self.start_ticks / unit_ticks) * unit_ticks


class Correlation(NamedTuple):
    """Highest peak of a circular correlation: where, and how high.

    `position` is in bins, positive when the low-count side is late; `sigma` is
    its height over its surroundings in standard deviations of their Poisson noise;
    `total_sigma` is over the mean of all, in standard deviations of all.
    """

    position: int
    sigma: float
    total_sigma: float


def find_offset(
    hec: Sequence[Type1], lec: Sequence[Type2], settings: PfindSettings | None = None
) -> ClockOffset:
    """Find by how much the low-count side's clock is ahead.

    Parameters
    ----------
    hec, lec
        Packets of the same epochs, in order.
    settings
        How to search.

    Returns
    -------
    ClockOffset
        Offset and drift.

    Raises
    ------
    OffsetNotFoundError
        If no offset stands out from noise.

    Notes
    -----
    Both streams are folded into coarse bins and correlated by FFT. The highest
    peak over its surroundings names a candidate; the differences around it are
    then listed one by one, and a straight line of offset over time is narrowed
    down by halves, so a drift of up to one coarse bin over the whole time costs
    nothing. The p-value is that of the Poisson distribution for the number of
    differences along that line, times the number of lines that the whole search
    could have looked at.

    References
    ----------
    .. [1] C. Ho, A. Lamas-Linares, C. Kurtsiefer, "Clock synchronization by remote
       detection of correlated photon pairs", New J. Phys. 11 (2009) 045011.
    """
    settings = settings or PfindSettings()
    streams = read_streams(hec, lec)
    if not streams.hec.size or not streams.lec.size:
        raise OffsetNotFoundError("one side has no events, so there is no offset to find")
    shift = shift_ticks(settings.resolution_ns)
    peak = correlate(streams, settings.order, shift)
    n_lines = lines_per_bin(1 << shift) * 2.0**settings.order * len(ALIASES)
    best, log10_p = OffsetLine(0.0, 0.0, 0.0, 0.0), 0.0
    for alias in ALIASES:
        centre_bins = peak.position + alias * 2**settings.order
        line = narrowed(streams, centre_bins << shift, 1 << shift)
        if line.log10_p < best.log10_p:
            best = line
            log10_p = min(0.0, best.log10_p + math.log10(n_lines))
        if log10_p <= math.log10(settings.max_p):
            break
    if log10_p > math.log10(settings.max_p):
        raise OffsetNotFoundError(
            f"no common offset: the highest peak has p = 10^{log10_p:.1f}, above"
            f" {settings.max_p:g}; try more epochs, or a larger order if the clocks may be"
            f" more than {settings.resolution_ns * 2**settings.order / 2e6:g} ms apart"
        )
    start_ticks = best.offset - best.slope / 2
    drift = best.slope / span_ticks(streams)
    return ClockOffset(start_ticks, drift, log10_p, peak.sigma, best.excess)


def log_line(
    offset_ticks: int, fine: Correlation | None, coarse: Correlation | None, verbosity: int
) -> str:
    """Describe an offset as the C program's ``-V`` does.

    Parameters
    ----------
    offset_ticks
        The offset.
    fine, coarse
        Correlations in fine and in coarse bins; not needed at level 0.
    verbosity
        0: offset in ticks; 1: and both significances; 2 and above: in words.
    """
    if verbosity <= 0 or fine is None or coarse is None:
        return f"{offset_ticks}"
    if verbosity == 1:
        return f"{offset_ticks}\t{fine.total_sigma:.6f}\t{coarse.total_sigma:.6f}"
    return (
        f"time difference: {offset_ticks} ticks ({offset_ticks / TICKS_PER_NS:g} ns),"
        f" significance fine: {fine.total_sigma:.6f}, coarse: {coarse.total_sigma:.6f}"
    )


def shift_ticks(resolution_ns: int) -> int:
    """Return how many bits of a time are below a resolution.

    Raises
    ------
    InputError
        If it isn't a power of two of nanoseconds, or too large.
    """
    if not 1 <= resolution_ns <= MAX_RESOLUTION_NS or resolution_ns & (resolution_ns - 1):
        raise InputError(
            f"resolution is {resolution_ns} ns, must be a power of two up to {MAX_RESOLUTION_NS}"
        )
    return (resolution_ns * TICKS_PER_NS).bit_length() - 1


def read_streams(hec: Sequence[Type1], lec: Sequence[Type2]) -> Streams:
    """Return the times in packets of both sides, counted from the first epoch of `lec`."""
    if not hec or not lec:
        raise OffsetNotFoundError("one side has no packets, so there is no offset to find")
    first = lec[0].epoch
    hec_ticks = [
        packet.events.times_ticks % TICKS_PER_EPOCH + _start_ticks(packet, first) for packet in hec
    ]
    lec_ticks = [packet.offsets_ticks + _start_ticks(packet, first) for packet in lec]
    return Streams(np.sort(np.concatenate(hec_ticks)), np.sort(np.concatenate(lec_ticks)))


def correlate(streams: Streams, order: int, shift: int) -> Correlation:
    """Correlate both streams, folded into 2^`order` bins of 2^`shift` ticks.

    Returns
    -------
    Correlation
        The highest peak.
    """
    n_bins = 1 << order
    folded = []
    for ticks in streams:
        histogram = np.zeros(n_bins)
        fold(ticks, shift, histogram)
        folded.append(rfft(histogram - ticks.size / n_bins))
    product = folded[1] * np.conj(folded[0])
    correlation: NDArray[np.float64] = irfft(product, n_bins)
    total_sigma = float(correlation.max() / max(correlation.std(), np.finfo(float).tiny))
    # the circular correlation of two constants is what subtracting the means took away
    correlation += streams.hec.size * (streams.lec.size / n_bins)
    envelope = np.maximum(uniform_filter1d(correlation, ENVELOPE_BINS, mode="wrap"), 0.0)
    height = (correlation - envelope) / np.sqrt(np.maximum(envelope, 1.0))
    # an offset between two bins shares its pairs among both; of their sum more is left
    shared = (height + np.roll(height, 1)) / math.sqrt(2)
    position = int(np.argmax(np.maximum(height, shared)))
    sigma = float(max(height[position], shared[position]))
    return Correlation((position + n_bins // 2) % n_bins - n_bins // 2, sigma, total_sigma)


def _start_ticks(packet: Type1 | Type2, first: Epoch) -> int:
    """Return when a packet's epoch starts, counted from the start of another."""
    period = 1 << (Epoch.BITS if packet.is_universal else Epoch.LOCAL_BITS)
    step = (packet.epoch.number - first.number + period // 2) % period - period // 2
    return step * TICKS_PER_EPOCH
