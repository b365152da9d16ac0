from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from plain_kernels import WAYS, way
from qkd_sim.kernels import simulate
from qkd_sim.kernels.simulate import Detection, Emission

NEVER = 1 << 62


def generator(seed: int) -> NDArray[np.uint64]:
    """Return the state of a generator."""
    return np.random.SeedSequence(seed).generate_state(4, np.uint64).astype(np.uint64)


def model(**changes: float) -> Emission:
    """Return a pair every 1000 ticks on average, all seen, nothing else."""
    ideal = Emission(
        pair_rate=1e-3,
        slot_ticks=0.0,
        log_miss=-np.inf,
        only_hec=0.0,
        only_lec=0.0,
        error_hv=0.0,
        error_diagonal=0.0,
        intercepted=0.0,
        hec_dark_rate=0.0,
        lec_dark_rate=0.0,
        hec_sigma=0.0,
        lec_sigma=0.0,
        hec_offset_ticks=0.0,
        lec_offset_ticks=0.0,
        lec_drift=0.0,
        end_ticks=1e6,
    )
    return ideal._replace(**changes)


def xoshiro256plusplus(words: list[int], n: int) -> list[int]:
    """Return the next outputs as the paper defines them, in whole numbers."""
    s, out, mask = list(words), [], (1 << 64) - 1

    def rotated(x: int, k: int) -> int:
        return (x << k | x >> 64 - k) & mask

    for _ in range(n):
        out.append((rotated((s[0] + s[3]) & mask, 23) + s[0]) & mask)
        shifted = s[1] << 17 & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= shifted
        s[3] = rotated(s[3], 45)
    return out


@pytest.mark.parametrize("name", WAYS)
def test_the_generator_is_xoshiro256plusplus(name: str) -> None:
    state = generator(5)
    expected = xoshiro256plusplus([int(word) for word in state], 50)
    drawn = [int(way(simulate.next_word, name)(state)) for _ in range(50)]
    assert drawn == expected


def test_uniform_numbers_are_never_zero_and_may_be_one() -> None:
    largest = np.array([(1 << 64) - 1, 0, 0, 0], np.uint64)
    zero = np.zeros(4, np.uint64)
    assert simulate.uniform(zero) == 2.0**-53
    state = generator(6)
    drawn = np.array([simulate.uniform(state) for _ in range(20000)])
    assert drawn.min() > 0.0
    assert drawn.max() <= 1.0
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(1 / 12 / drawn.size)
    assert simulate.uniform(largest) <= 1.0


def emitted(emission: Emission, seed: int, name: str, room: int = 6000) -> tuple[Any, ...]:
    """Draw until the end."""
    state = generator(seed)
    clock = way(simulate.begin, name)(emission, state)
    hec = (np.zeros(room, np.int64), np.zeros(room, np.uint8))
    lec = (np.zeros(room, np.int64), np.zeros(room, np.uint8))
    fill = np.zeros(2, np.int64)
    assert way(simulate.emit, name)(emission, state, clock, hec, lec, fill)
    sides = ((hec, fill[0]), (lec, fill[1]))
    return tuple(array[:n].copy() for side, n in sides for array in side)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"only_hec": 0.3, "only_lec": 0.2, "hec_dark_rate": 1e-4, "lec_dark_rate": 2e-4},
        {"hec_sigma": 30.0, "lec_sigma": 500.0, "lec_offset_ticks": -777.5, "lec_drift": 1e-4},
        {"error_hv": 0.1, "error_diagonal": 0.2, "intercepted": 0.5},
        {"slot_ticks": 500.0, "log_miss": np.log(0.5), "pair_rate": 1e-3},
        {"pair_rate": 0.0},
        {"pair_rate": 0.0, "hec_dark_rate": 2e-7, "lec_dark_rate": 1e-7, "end_ticks": 2.0**33},
    ],
)
def test_compiled_and_plain_draw_the_same_clicks(changes: dict[str, float]) -> None:
    emission = model(**changes)
    plain, compiled = (emitted(emission, 3, name) for name in reversed(WAYS))
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.diff(plain[0]) >= 0).all()
    assert (np.diff(plain[2]) >= 0).all()


def test_ideal_pairs_click_at_the_same_time_and_opposite_in_the_same_basis() -> None:
    hec_times, hec, lec_times, lec = emitted(model(), 1, "compiled")
    np.testing.assert_array_equal(hec_times, lec_times)
    is_same_basis = (hec & 1) == (lec & 1)
    np.testing.assert_array_equal(lec[is_same_basis], hec[is_same_basis] ^ 2)
    assert abs(is_same_basis.sum() - hec.size / 2) < 4 * np.sqrt(hec.size / 4)


def test_nothing_shines_and_nothing_clicks() -> None:
    assert [part.size for part in emitted(model(pair_rate=0.0), 1, "compiled")] == [0, 0, 0, 0]


def test_time_goes_on_beyond_the_precision_of_one_base() -> None:
    rare = model(pair_rate=1e-9, end_ticks=5e12)
    times = emitted(rare, 2, "compiled")[0]
    assert abs(times.size - 5000) < 4 * np.sqrt(5000)
    assert times[-1] < 5e12
    assert times[-1] > 4.9e12
    assert (np.diff(times) > 0).all()


def by_hand(
    detection: Detection, times: list[int], detectors: list[int]
) -> tuple[list[int], list[int]]:
    """Apply dead time and merging, one click after another, without afterpulses."""
    last = dict.fromkeys(range(4), -NEVER)
    events: list[list[int]] = []
    for time, detector in zip(times, detectors, strict=True):
        if time - last[detector] < detection.dead_ticks:
            continue
        last[detector] = time
        if events and time - events[-1][0] <= detection.merge_ticks:
            events[-1][1] |= 1 << detector
        else:
            events.append([time, 1 << detector])
    return [event[0] for event in events], [event[1] for event in events]


def detected(
    detection: Detection, times: list[int], detectors: list[int], name: str, room: int
) -> tuple[list[int], list[int], NDArray[np.int64]]:
    """Run the kernel with little room for events, until everything is used up."""
    state = np.array([-NEVER] * 4 + [NEVER] * 4 + [0, 0])
    random_state, n_used = generator(9), 0
    found: tuple[list[int], list[int]] = ([], [])
    while True:
        clicks = (np.array(times[n_used:], np.int64), np.array(detectors[n_used:], np.uint8))
        events = (np.empty(room, np.int64), np.empty(room, np.uint8))
        n_more, n_events = way(simulate.detect, name)(
            detection, random_state, state, clicks, 1 << 40, events
        )
        n_used += n_more
        found[0].extend(int(time) for time in events[0][:n_events])
        found[1].extend(int(pattern) for pattern in events[1][:n_events])
        if n_events < room:
            assert n_used == len(times)
            return found[0], found[1], state


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), max_size=40),
    st.integers(0, 50),
    st.integers(0, 20),
    st.integers(1, 5),
)
def test_dead_time_and_merging_are_as_by_hand(
    name: str, clicks: list[tuple[int, int]], dead_ticks: int, merge_ticks: int, room: int
) -> None:
    clicks = sorted(clicks, key=lambda click: click[0])
    times, detectors = [click[0] for click in clicks], [click[1] for click in clicks]
    detection = Detection(dead_ticks, merge_ticks, 0.0, 0.0)
    found_times, found_patterns, state = detected(detection, times, detectors, name, room)
    if state[9]:
        found_times.append(int(state[8]))
        found_patterns.append(int(state[9]))
    assert (found_times, found_patterns) == by_hand(detection, times, detectors)


@pytest.mark.parametrize("name", WAYS)
def test_an_afterpulse_follows_its_click_at_the_same_detector(name: str) -> None:
    detection = Detection(100, 0, 0.9, 50.0)
    times = [100000 * k for k in range(1, 60)]
    found_times, found_patterns, _ = detected(detection, times, [2] * len(times), name, 7)
    assert set(found_patterns) == {4}
    gaps = np.diff(found_times)
    assert gaps.min() > 100
    is_afterpulse = ~np.isin(found_times, times)
    assert 59 < is_afterpulse.sum() < 59 * 30, "nine in ten clicks make another one"


def test_afterpulses_are_the_same_compiled_and_plain() -> None:
    detection = Detection(30, 2, 0.5, 50.0)
    times = [37 * k for k in range(1, 200)]
    detectors = [k * k % 4 for k in range(1, 200)]
    compiled, plain = (detected(detection, times, detectors, name, 50) for name in WAYS)
    assert compiled[:2] == plain[:2]
