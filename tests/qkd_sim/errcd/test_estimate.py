import math

import numpy as np
import pytest
from scipy import stats

from qkd_sim.errcd.estimate import (
    SampleEstimate,
    choose_sample,
    log_lower_tail,
    most_key_errors,
)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (64, 63), (1000, 1), (1001, 500), (5, 5)])
def test_a_sample_has_exactly_its_size(n: int, k: int) -> None:
    is_chosen = choose_sample(n, k, b"seed")
    assert is_chosen.shape == (n,)
    assert is_chosen.sum() == k


def test_a_sample_depends_on_the_seed_and_on_nothing_else() -> None:
    first = choose_sample(1000, 100, b"a")
    assert np.array_equal(first, choose_sample(1000, 100, b"a"))
    assert not np.array_equal(first, choose_sample(1000, 100, b"b"))


def test_every_bit_and_every_pair_is_chosen_equally_often() -> None:
    n, k, n_runs = 12, 4, 6000
    chosen = np.array([choose_sample(n, k, b"%d" % run) for run in range(n_runs)], float)
    share = chosen.mean(axis=0)
    sigma = (k / n * (1 - k / n) / n_runs) ** 0.5
    assert np.abs(share - k / n).max() < 4.5 * sigma
    pairs = chosen.T @ chosen / n_runs
    expected = k * (k - 1) / (n * (n - 1))
    off_diagonal = pairs[~np.eye(n, dtype=bool)]
    assert np.abs(off_diagonal - expected).max() < 4.5 * (expected / n_runs) ** 0.5


def test_the_estimate_is_unbiased_also_for_bursts() -> None:
    n, k, n_runs = 2000, 200, 3000
    errors = np.zeros(n, bool)
    errors[100:160] = True  # all in one place
    estimates = np.array(
        [
            SampleEstimate(k, int((choose_sample(n, k, b"%d" % run) & errors).sum())).qber
            for run in range(n_runs)
        ]
    )
    standard_error = estimates.std(ddof=1) / n_runs**0.5
    assert abs(estimates.mean() - errors.mean()) < 4 * standard_error
    # without replacement: the variance of the hypergeometric distribution
    p = errors.mean()
    variance = p * (1 - p) / k * (n - k) / (n - 1)
    assert estimates.var(ddof=1) == pytest.approx(variance, rel=4 * (2 / n_runs) ** 0.5)


def test_an_error_rate_to_plan_by_is_never_zero() -> None:
    assert SampleEstimate(100, 0).qber == 0
    assert 0 < SampleEstimate(100, 0).planning_qber < 0.01
    assert SampleEstimate(10_000, 300).planning_qber == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize(
    ("errors", "population", "marked", "sample"),
    [
        (0, 10, 3, 4),
        (3, 1000, 50, 100),
        (20, 5000, 400, 300),
        (30, 1000, 100, 400),
        (7, 20, 15, 10),
    ],
)
def test_the_tail_is_that_of_the_hypergeometric_distribution(
    errors: int, population: int, marked: int, sample: int
) -> None:
    expected = stats.hypergeom.logcdf(errors, population, marked, sample)
    assert log_lower_tail(errors, population, marked, sample) == pytest.approx(expected, abs=1e-9)


def test_the_tail_of_what_cannot_be_is_zero() -> None:
    assert log_lower_tail(1, 10, 8, 6) == -math.inf


@pytest.mark.parametrize(
    ("key", "sample", "errors"), [(900, 100, 3), (5000, 500, 0), (300, 300, 30)]
)
def test_the_bound_is_the_smallest_that_the_tail_excludes(
    key: int, sample: int, errors: int
) -> None:
    log_failure = math.log(1e-6)
    bound = most_key_errors(key, SampleEstimate(sample, errors), log_failure)
    assert bound is not None
    n = key + sample
    assert stats.hypergeom.logcdf(errors, n, errors + bound + 1, sample) <= log_failure
    assert stats.hypergeom.logcdf(errors, n, errors + bound, sample) > log_failure


def test_the_bound_fails_no_more_often_than_promised() -> None:
    """With as many errors as hurt most, the event of the bound being too low is rare."""
    rng = np.random.default_rng(4)
    key, sample, failure, n_runs = 400, 100, 0.02, 20_000
    for marked in (10, 25, 60):
        shown = rng.hypergeometric(marked, key + sample - marked, sample, n_runs)
        bounds = {
            int(x): most_key_errors(key, SampleEstimate(sample, int(x)), math.log(failure))
            for x in set(shown.tolist())
        }
        n_failed = sum(marked - x > (bounds[x] or 0) for x in shown.tolist())
        assert n_failed / n_runs < failure + 4 * (failure / n_runs) ** 0.5


def test_a_sample_that_says_nothing_gives_no_bound() -> None:
    assert most_key_errors(1000, SampleEstimate(3, 0), math.log(1e-20)) is None
