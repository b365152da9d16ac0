"""chopper2 - high-count side: raw events to type-1 packets, one per epoch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd_sim.detectors import count_patterns, log_columns
from qkd_sim.epochsplit import EpochEvents
from qkd_sim.packets import Type1


@dataclass(frozen=True, slots=True)
class Packaged:
    """What comes of one epoch.

    Parameters
    ----------
    type1
        The events.
    pattern_counts : (16,) ndarray of int64
        How many events of each detector pattern there are in it.
    n_ignored
        How many events were ignored since the epoch before.
    """

    type1: Type1
    pattern_counts: NDArray[np.int64]
    n_ignored: int


def package(epochs: Iterable[EpochEvents]) -> Iterator[Packaged]:
    """Make a type-1 packet of each epoch; the records stay as they are.

    A record that is all zero would be read as the packet's end; it says that
    no detector clicked, and is left out.

    Parameters
    ----------
    epochs
        The epochs, see `qkd_sim.epochsplit.split_epochs`.

    Yields
    ------
    Packaged
        One for each epoch that has events.
    """
    for epoch in epochs:
        events, n_ignored = epoch.events, epoch.n_ignored
        is_blank = (events.times_ticks == 0) & (events.patterns == 0)
        if is_blank.any():
            n_ignored += int(np.count_nonzero(is_blank))
            events = events.part(~is_blank)
        if len(events):
            type1 = Type1(epoch.epoch, events, epoch.is_universal)
            yield Packaged(type1, count_patterns(events.patterns), n_ignored)


def log_line(packaged: Packaged, verbosity: int, n_detectors: int) -> str:
    """Describe an epoch as the C program's ``-V`` does.

    Parameters
    ----------
    packaged
        The epoch.
    verbosity
        0: epoch; 1: and number of events; 2: in words; 3: counts by detector.
    n_detectors
        4 or 6, see `qkd_sim.detectors.log_columns`.
    """
    epoch, n_events = packaged.type1.epoch, len(packaged.type1.events)
    if verbosity == 0:
        return f"{epoch}"
    if verbosity == 1:
        return f"{epoch}\t{n_events}"
    if verbosity == 2:
        return f"epoch: {epoch} \t entries: {n_events}"
    return "\t".join([f"{epoch}", *map(str, log_columns(packaged.pattern_counts, n_detectors))])
