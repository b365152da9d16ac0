"""chopper - low-count side: raw events to type-2 (sent) and type-3 (kept) packets."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from kme.units import TICKS_PER_EPOCH
from qkd_sim.detectors import count_patterns, log_columns
from qkd_sim.epochsplit import EpochEvents
from qkd_sim.packets import Type2, Type3
from qkd_sim.protocols import BB84, PATTERN_MASK, Protocol, protocol

MIN_WIDTH_BITS: Final = 4
DEFAULT_WIDTH_BITS: Final = 17
"""Best for 100 000 events per second by the rule of the C programs."""

_WORD_BITS: Final = 32
_MIN_DIFFERENCE: Final = 2


@dataclass(frozen=True, slots=True)
class Encoding:
    """How events are told and kept.

    Parameters
    ----------
    protocol
        Number of the protocol, see `qkd_sim.protocols`.
    width_bits
        Bits of a short time difference, 4 to 32 less the bits of a basis; of
        the first epoch if it adapts.
    adaptive_filter
        The width goes this fraction (1/n) of the way to the best width after
        each epoch; 0 keeps it.
    """

    protocol: int = BB84
    width_bits: int = DEFAULT_WIDTH_BITS
    adaptive_filter: int = 0


@dataclass(frozen=True, slots=True)
class Chopped:
    """What comes of one epoch.

    Parameters
    ----------
    type2
        For the other side.
    type3
        For later.
    pattern_counts : (16,) ndarray of int64
        How many events of each detector pattern there are in it.
    n_ignored
        How many events were ignored since the epoch before, by the splitter
        and because nothing can be told about them.
    """

    type2: Type2
    type3: Type3
    pattern_counts: NDArray[np.int64]
    n_ignored: int


def chop(epochs: Iterable[EpochEvents], encoding: Encoding) -> Iterator[Chopped]:
    """Make a type-2 and a type-3 packet of each epoch, entry for entry.

    Events at the same tick as their predecessor, or at the epoch's very first
    tick, cannot be told and are left out; an epoch without any other events
    gives no packets. Events with no or several detectors are kept: the high
    side cannot know, and decides by its own.

    Parameters
    ----------
    epochs
        The epochs, see `qkd_sim.epochsplit.split_epochs`.
    encoding
        How to tell.

    Yields
    ------
    Chopped
        One for each epoch that has events.

    Raises
    ------
    InputError
        If there is no such protocol, or the width is out of range.
    """
    rules = protocol(encoding.protocol)
    max_width_bits = _WORD_BITS - rules.basis_bits
    if not MIN_WIDTH_BITS <= encoding.width_bits <= max_width_bits:
        raise InputError(
            f"width is {encoding.width_bits} bits; with protocol {rules.number}"
            f" it must be {MIN_WIDTH_BITS}..{max_width_bits}"
        )
    if encoding.adaptive_filter < 0:
        raise InputError(f"adaptive filter is {encoding.adaptive_filter}, must be 0 or more")
    width = AdaptiveWidth(encoding.width_bits, encoding.adaptive_filter, max_width_bits)
    for epoch in epochs:
        chopped = _chop_epoch(epoch, rules, width.bits)
        if chopped is not None:
            yield chopped
            width = width.after(int(chopped.type3.values.size))


def _chop_epoch(epoch: EpochEvents, rules: Protocol, width_bits: int) -> Chopped | None:
    """Make one epoch's packets, or none if nothing can be told."""
    offsets = epoch.offsets_ticks
    can_be_told = np.diff(offsets, prepend=0) > 0
    n_told = int(np.count_nonzero(can_be_told))
    if not n_told:
        return None
    patterns = epoch.events.patterns[can_be_told] & np.uint8(PATTERN_MASK)
    type2 = Type2(
        epoch.epoch,
        sent_offsets(offsets[can_be_told]),
        rules.bases[patterns],
        width_bits,
        rules.basis_bits,
        rules.number,
        epoch.is_universal,
    )
    type3 = Type3(epoch.epoch, rules.results[patterns], rules.result_bits, epoch.is_universal)
    n_ignored = epoch.n_ignored + len(epoch.events) - n_told
    return Chopped(type2, type3, count_patterns(patterns), n_ignored)


def sent_offsets(offsets_ticks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the times that the other side will decode.

    A difference of 1 tick cannot be written. It becomes 3, and the differences
    behind it stay as they are: all later events of the epoch arrive 2 ticks
    (250 ps) late, as with the C program.

    Parameters
    ----------
    offsets_ticks : (n,) ndarray of int64
        True times within the epoch, strictly increasing, the first above 0.

    Returns
    -------
    (n,) ndarray of int64
        Times whose differences are 2 or more.

    Examples
    --------
    >>> sent_offsets(np.array([5, 6, 7, 100]))
    array([  5,   8,  11, 104])
    """
    differences = np.diff(offsets_ticks, prepend=0)
    differences[differences < _MIN_DIFFERENCE] += 2
    return np.cumsum(differences)


@dataclass(frozen=True, slots=True)
class AdaptiveWidth:
    """The width of short time differences, which follows the event rate.

    Parameters
    ----------
    start_bits
        Width at first.
    filter_constant
        After each epoch it goes this fraction (1/n) of the way; 0 for never.
    max_bits
        It never becomes larger, nor smaller than 4.
    scaled
        The width in units of 1/256 bit; -1 to start from `start_bits`.

    Notes
    -----
    The best width of geometrically distributed differences of mean g is
    log2(g) + 2.2117 by the rule of the C program, in steps of 1/16 bit. The
    limits are ours: the C program goes beyond a word at fewer than some ten
    events per epoch.
    """

    start_bits: int
    filter_constant: int
    max_bits: int
    scaled: int = -1

    @property
    def bits(self) -> int:
        """The width to use now."""
        if not self.filter_constant or self.scaled < 0:
            return self.start_bits
        return min(max(self.scaled >> 8, MIN_WIDTH_BITS), self.max_bits)

    def after(self, n_entries: int) -> "AdaptiveWidth":
        """Return the width for the epoch after one with so many entries (at least one)."""
        if not self.filter_constant:
            return self
        mean_difference = max(512, TICKS_PER_EPOCH // n_entries)
        # the C program computes the mean in single precision
        best = int((math.log2(float(np.float32(mean_difference))) + 2.2117) * 16) << 4
        scaled = self.start_bits << 8 if self.scaled < 0 else self.scaled
        # towards zero, as C divides
        step = int((best - scaled) / self.filter_constant)
        return replace(self, scaled=scaled + step)


def log_line(chopped: Chopped, verbosity: int, n_detectors: int) -> str:
    """Describe an epoch as the C program's ``-V`` does.

    Parameters
    ----------
    chopped
        The epoch.
    verbosity
        0: epoch; 1: and number of entries; 2, 3: in words; 4: counts by
        detector.
    n_detectors
        4 or 6, see `qkd_sim.detectors.log_columns`.
    """
    type2, n_entries = chopped.type2, int(chopped.type3.values.size)
    if verbosity == 0:
        return f"{type2.epoch}"
    if verbosity == 1:
        return f"{type2.epoch}\t{n_entries}"
    if verbosity == 2:
        return f"epoch: {type2.epoch}\t entries: {n_entries}"
    if verbosity == 3:
        return f"epoch: {type2.epoch}, entries: {n_entries}, type2bits: {type2.width_bits}"
    columns = log_columns(chopped.pattern_counts, n_detectors)
    return "\t".join([f"{type2.epoch}", *map(str, columns)])
