"""photon_chain - raw events of both sides through the choppers, for tests of later stages."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkd_sim.chopper import Encoding, chop
from qkd_sim.chopper2 import package
from qkd_sim.epochsplit import SplitRules, split_epochs
from qkd_sim.events import TIME_PERIOD_TICKS, Events
from qkd_sim.packets import Type1, Type2, Type3


class Chopped(NamedTuple):
    """Packets of the epochs that both sides have."""

    hec: list[Type1]
    lec: list[Type2]
    results: list[Type3]


def chopped(hec: Events, lec: Events, *, is_last_kept: bool = True) -> Chopped:
    """Cut both sides' events into packets, and keep the epochs that are common."""
    rules = SplitRules(is_last_kept=is_last_kept)
    type1 = {p.type1.epoch: p.type1 for p in package(split_epochs([hec], rules))}
    low = {c.type2.epoch: c for c in chop(split_epochs([lec], rules), Encoding())}
    common = [epoch for epoch in type1 if epoch in low]
    return Chopped(
        [type1[epoch] for epoch in common],
        [low[epoch].type2 for epoch in common],
        [low[epoch].type3 for epoch in common],
    )


def shifted(events: Events, ticks: int) -> Events:
    """Return the same events at other times."""
    return Events((events.times_ticks + ticks) % TIME_PERIOD_TICKS, events.patterns)


def as_events(ticks: NDArray[np.int64], seed: int = 0) -> Events:
    """Return events of single clicks at these times, sorted; equal times once."""
    times = np.unique(ticks)
    detectors = np.random.default_rng(seed).integers(0, 4, times.size)
    return Events(times % TIME_PERIOD_TICKS, (1 << detectors).astype(np.uint8))
