import math

import numpy as np
import pytest
from scipy.stats import poisson

from qkd_sim.offsetline import Streams, log10_tail, narrowed, span_ticks

BIN_TICKS = 1 << 14


def streams(offset: float, slope: float, n_pairs: int = 400, n_others: int = 0) -> Streams:
    """Return pairs on a line over 1e9 ticks, among others near them."""
    rng = np.random.default_rng(n_pairs + n_others)
    hec = np.sort(rng.integers(0, 10**9, n_pairs))
    hec[0], hec[-1] = 0, 10**9
    lec = hec + np.round(offset + slope * (hec / 1e9 - 0.5)).astype(np.int64)
    near = rng.choice(hec, n_others) + round(offset) + rng.integers(-20000, 20000, n_others)
    return Streams(hec, np.sort(np.concatenate([lec, near])))


@pytest.mark.parametrize("offset", [0.0, 12_345.0, -777_777.0])
@pytest.mark.parametrize("slope", [0.0, 300.0, -9000.0])
@pytest.mark.parametrize("n_others", [0, 2000])
def test_a_line_is_found_from_anywhere_within_a_bin(
    offset: float, slope: float, n_others: int
) -> None:
    both = streams(offset, slope, n_others=n_others)
    for away in (-0.9, -0.3, 0.0, 0.5, 0.9):
        line = narrowed(both, round(offset + away * BIN_TICKS * 0.6), BIN_TICKS)
        assert line.offset == pytest.approx(offset, abs=0.5)
        assert line.slope == pytest.approx(slope, abs=1.5)
        assert line.log10_p < -100
        assert line.excess == pytest.approx(400, abs=40)


def test_nothing_near_the_candidate_is_no_line() -> None:
    both = streams(0.0, 0.0)
    far = narrowed(both, 10**8, BIN_TICKS)
    assert far.log10_p > -10
    assert span_ticks(both) == 10**9


def test_a_single_pair_says_nothing() -> None:
    line = narrowed(Streams(np.array([5]), np.array([9])), 0, BIN_TICKS)
    assert line.log10_p > -10
    assert line.excess <= 1


def test_log_p_values_are_those_of_the_poisson_distribution() -> None:
    for count, expected in ((5, 0.1), (20, 3.0), (150, 100.0), (1, 0.5), (1200, 1000.0)):
        exact = poisson.logsf(count - 1, expected) / math.log(10)
        assert log10_tail(count, expected) == pytest.approx(exact, rel=1e-9)
    assert log10_tail(10, 10.5) == 0.0
    assert log10_tail(0, 0.5) == 0.0
    assert -1e6 < log10_tail(100_000, 1.0) < -1e5
