import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_kernels import WAYS, way
from qkd_sim.kernels import correlate
from qkd_sim.kernels.correlate import LINES_PER_AXIS

STREAM = st.lists(st.integers(-500, 500), max_size=25).map(sorted)


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=40, deadline=None)
@given(STREAM, st.integers(0, 5), st.integers(1, 6))
def test_folded_times_are_counted_modulo_the_length(
    name: str, times: list[int], shift: int, order: int
) -> None:
    histogram = np.zeros(1 << order)
    way(correlate.fold, name)(np.array(times, np.int64), shift, histogram)
    expected = [sum((t // 2**shift) % 2**order == k for t in times) for k in range(2**order)]
    assert histogram.tolist() == expected


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=60, deadline=None)
@given(STREAM, STREAM, st.integers(-600, 600), st.integers(1, 300), st.integers(1, 3))
def test_pairs_are_all_those_within_the_limits(
    name: str, hec: list[int], lec: list[int], low: int, width: int, stride: int
) -> None:
    streams = np.array(hec, np.int64), np.array(lec, np.int64)
    expected = [(h, x - h) for x in lec[::stride] for h in hec if low <= x - h < low + width]
    n = way(correlate.count_pairs, name)(*streams, low, low + width, stride)
    assert n == len(expected)
    times, differences = np.empty(n, np.int64), np.empty(n, np.int64)
    way(correlate.list_pairs, name)(*streams, (low, low + width), stride, times, differences)
    found = zip(times.tolist(), differences.tolist(), strict=True)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-8, 8), st.integers(-100, 100)), max_size=20),
    st.sampled_from([4.0, 8.0, 32.0]),
)
def test_lines_hold_the_points_near_them(
    name: str, points: list[tuple[int, int]], half_width: float
) -> None:
    x, y = np.array([p[0] / 16 for p in points]), np.array([float(p[1]) for p in points])
    counts = way(correlate.count_lines, name)(x, y, half_width)
    assert counts.shape == (LINES_PER_AXIS, LINES_PER_AXIS)
    for row in range(LINES_PER_AXIS):
        for column in range(LINES_PER_AXIS):
            line = (row - 2) * half_width + (column - 2) * half_width * x
            assert counts[row, column] == np.count_nonzero(np.abs(y - line) <= half_width)
