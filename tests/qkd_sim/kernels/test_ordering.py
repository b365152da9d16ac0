from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photon_files import at
from qkd_sim.kernels.ordering import judge_events

Kernel = Callable[..., Any]
JUDGES: dict[str, Kernel] = {"compiled": judge_events, "plain": judge_events.py_func}
TIME_PERIOD = 1 << 49
EPOCH_PERIOD = 1 << 17


def nearest(difference: int, period: int) -> int:
    """Return the shorter way round."""
    difference %= period
    return difference - period if difference >= period // 2 else difference


def by_hand(times: list[int], max_gap: int, max_strays: int) -> tuple[list[int], int]:
    """Judge events as the rules read, one list at a time."""
    verdicts: list[int] = []
    strays = 0
    for i, time in enumerate(times):
        taken = [t for t, verdict in zip(times, verdicts, strict=False) if verdict == 0]
        last = taken[-1] if taken else time
        step = nearest((time >> 32) - (last >> 32), EPOCH_PERIOD)
        if max_gap and i and nearest(time - times[i - 1], TIME_PERIOD) > max_gap:
            verdicts.append(1)
        elif step not in {-1, 0, 1}:
            verdicts.append(2)
            strays += 1
            if strays > max_strays:
                return verdicts, i
        elif nearest(time - last, TIME_PERIOD) < 0:
            verdicts.append(3)
        else:
            verdicts.append(0)
            strays = 0 if step == 1 else strays
    return verdicts, -1


def judged(
    way: str, chunks: list[list[int]], max_gap: int, max_strays: int
) -> tuple[list[int], int]:
    memory = np.array([-1, -1, 0], np.int64)
    everything: list[int] = []
    for chunk in chunks:
        verdicts = np.full(len(chunk), 9, np.uint8)
        failed = JUDGES[way](np.array(chunk, np.int64), max_gap, max_strays, memory, verdicts)
        if failed >= 0:
            return [*everything, *verdicts[: failed + 1].tolist()], len(everything) + failed
        everything += verdicts.tolist()
    return everything, -1


@pytest.mark.parametrize("way", JUDGES)
@settings(deadline=None, max_examples=80)
@given(
    start=st.integers(0, TIME_PERIOD - 1),
    steps=st.lists(
        st.one_of(
            st.integers(0, 1 << 31),
            st.integers(-(1 << 31), 1 << 33),
            st.integers(-(1 << 40), 1 << 40),
        ),
        max_size=40,
    ),
    max_gap=st.sampled_from([0, 1 << 30, 1 << 33]),
    cut=st.integers(0, 40),
)
def test_events_are_judged_as_the_rules_read_wherever_the_stream_is_cut(
    way: str, start: int, steps: list[int], max_gap: int, cut: int
) -> None:
    times = [int(time) % TIME_PERIOD for time in np.cumsum([start, *steps])]
    assert judged(way, [times[:cut], times[cut:]], max_gap, 5) == by_hand(times, max_gap, 5)


@pytest.mark.parametrize("way", JUDGES)
def test_strays_are_forgiven_when_an_epoch_begins_well(way: str) -> None:
    far = at(500, 0)
    times = [at(5, 1), *[far] * 5, at(6, 1), *[far] * 5, at(6, 2)]
    assert judged(way, [times], 0, 5) == ([0, *[2] * 5, 0, *[2] * 5, 0], -1)
    assert judged(way, [[*times, far]], 0, 5) == ([0, *[2] * 5, 0, *[2] * 5, 0, 2], 13)


@pytest.mark.parametrize("way", JUDGES)
def test_a_true_gap_costs_one_event_and_a_glitch_only_itself(way: str) -> None:
    assert judged(way, [[100, 200, 9000, 9100, 9200]], 1000, 5) == ([0, 0, 1, 0, 0], -1)
    assert judged(way, [[100, 200, 9000, 300, 400]], 1000, 5) == ([0, 0, 1, 0, 0], -1)
