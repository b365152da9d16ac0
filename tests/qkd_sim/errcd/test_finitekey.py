import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qkd_sim.errcd.entropy import binary_entropy
from qkd_sim.errcd.estimate import SampleEstimate
from qkd_sim.errcd.finitekey import Epsilons, best_sample_bits, secure_length

EPSILONS = Epsilons(correctness=1e-15, estimation=4.5e-11, amplification=1e-11)
TAG_BITS = math.ceil(math.log2(1 / EPSILONS.correctness))


def test_the_epsilons_add_up() -> None:
    assert EPSILONS.secrecy == pytest.approx(1e-10)
    assert EPSILONS.total == pytest.approx(1e-10 + 1e-15)


# Secret bits per sifted bit, sample size optimised, eps_sec 1e-10, leak 1.03 h(Q):
# the exact formula with one random sample of all sifted bits
ONE_SAMPLE = {
    10**4: {0.01: 0.493, 0.02: 0.379, 0.03: 0.287, 0.05: 0.142, 0.08: 0.0},
    10**5: {0.01: 0.689, 0.02: 0.565, 0.03: 0.462, 0.05: 0.290, 0.08: 0.088},
    10**6: {0.01: 0.772, 0.02: 0.647, 0.03: 0.540, 0.05: 0.359, 0.08: 0.138},
    10**7: {0.01: 0.807, 0.03: 0.575, 0.05: 0.391, 0.08: 0.162},
}


def share(m: int, qber: float, k: int, length: Callable[[int, int, float], float]) -> float:
    return length(m - k, k, qber) / m


def exact(n: int, k: int, qber: float) -> float:
    leak = math.ceil(1.03 * n * binary_entropy(qber)) + TAG_BITS
    return secure_length(n, SampleEstimate(k, math.floor(k * qber + 1e-9)), leak, EPSILONS)


@pytest.mark.parametrize(("m", "qber"), [(m, q) for m, row in ONE_SAMPLE.items() for q in row])
def test_the_length_is_that_of_the_table(m: int, qber: float) -> None:
    k = best_sample_bits(m, qber, 1.03, EPSILONS)
    # the table optimised the split of the epsilons too, which is worth most for short blocks
    tolerance = 0.004 if m == 10**4 else 0.0015
    assert share(m, qber, k, exact) == pytest.approx(ONE_SAMPLE[m][qber], abs=tolerance)


# Two blocks, one of either basis, each the sample for the other
BOTH_BASES = {
    10**5: {0.01: 0.790, 0.02: 0.661, 0.03: 0.549, 0.05: 0.359, 0.08: 0.123},
    10**6: {0.01: 0.823, 0.03: 0.589, 0.05: 0.401, 0.08: 0.165},
}


@pytest.mark.parametrize(("m", "qber"), [(m, q) for m, row in BOTH_BASES.items() for q in row])
def test_the_same_formula_gives_the_table_of_both_bases(m: int, qber: float) -> None:
    n = m // 2
    halved = Epsilons(5e-16, 2.25e-11, 0.5e-11)
    leak = math.ceil(1.03 * n * binary_entropy(qber)) + math.ceil(math.log2(2e15))
    length = 2 * secure_length(n, SampleEstimate(n, round(n * qber)), leak, halved)
    assert length / m == pytest.approx(BOTH_BASES[m][qber], abs=0.002)


def textbook(n: int, k: int, qber: float) -> float:
    """Tomamichel, Lim, Gisin, Renner 2012."""
    mu = math.sqrt((n + k) / (n * k) * (k + 1) / k * math.log(4 / 1e-10))
    if qber + mu >= 0.5:
        return 0.0
    entropy = n * (1 - binary_entropy(qber + mu))
    return entropy - 1.03 * n * binary_entropy(qber) - math.log2(2 / (1e-20 * 1e-15))


def lim(n: int, k: int, qber: float) -> float:
    """Lim, Xu, Pan, Ekert 2021: the same length, with closed-form tails."""
    m = n + k
    log_failure = 2 * math.log(EPSILONS.estimation)

    def is_excluded(nu: float) -> bool:
        xi = np.linspace(0, nu, 400)[1:-1]
        gamma = 1 / (m * (qber + xi) + 1) + 1 / (m - m * (qber + xi) + 1)
        sample = np.minimum(-2 * m * k * xi**2 / (n + 1), 0)
        rest = np.minimum(-2 * gamma * (n * n * (nu - xi) ** 2 - 1), 0)
        return bool(np.logaddexp(sample, rest).min() <= log_failure)

    low, high = 1e-6, 0.5 - qber
    if not is_excluded(high):
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_excluded(middle) else (middle, high)
    entropy = n * (1 - binary_entropy(qber + high))
    leak = 1.03 * n * binary_entropy(qber)
    return entropy - leak - TAG_BITS + 2 * math.log2(2 * EPSILONS.amplification)


@pytest.mark.parametrize("m", [10**4, 10**5, 10**6])
@pytest.mark.parametrize("qber", [0.01, 0.03, 0.05])
def test_exact_tails_give_more_than_closed_forms_and_less_than_the_asymptote(
    m: int, qber: float
) -> None:
    choices = [int(m * part) for part in np.geomspace(0.01, 0.5, 15)]
    best = [max(share(m, qber, k, length) for k in choices) for length in (textbook, lim, exact)]
    assert best == sorted(best)
    assert best[2] < 1 - 2.03 * binary_entropy(qber)
    if (m, qber) in {(10**5, 0.03), (10**6, 0.05)}:
        textbook_and_lim = {(10**5, 0.03): (0.356, 0.363), (10**6, 0.05): (0.318, 0.319)}
        assert best[:2] == pytest.approx(textbook_and_lim[m, qber], abs=0.004)


@settings(deadline=None, max_examples=40)
@given(
    key=st.integers(100, 4000),
    sample=st.integers(50, 2000),
    rate=st.floats(0, 0.12),
    leak_share=st.floats(0, 0.8),
)
def test_the_length_is_never_above_the_formula_and_monotone(
    key: int, sample: int, rate: float, leak_share: float
) -> None:
    errors, leak = int(sample * rate), int(key * leak_share)
    length = secure_length(key, SampleEstimate(sample, errors), leak, EPSILONS)
    assert 0 <= length <= key
    if length:
        # evaluated anew, with the tail of another library
        n = key + sample
        log_failure = 2 * math.log(EPSILONS.estimation)
        totals = np.arange(errors + 1, n + 1)
        excluded = stats.hypergeom.logcdf(errors, n, totals, sample) <= log_failure - 1e-9
        most = int(totals[np.argmax(excluded)]) - errors - 1
        entropy = key * (1 - binary_entropy(min(most / key, 0.5)))
        assert length <= entropy - leak - 2 * math.log2(1 / (2 * EPSILONS.amplification)) + 1e-6
    worse = SampleEstimate(sample, errors + 1)
    assert secure_length(key, worse, leak, EPSILONS) <= length
    assert secure_length(key, SampleEstimate(sample, errors), leak + 1, EPSILONS) <= length
    stricter = Epsilons(1e-15, 4.5e-13, 1e-13)
    assert secure_length(key, SampleEstimate(sample, errors), leak, stricter) <= length


def test_nothing_is_secret_in_a_key_of_half_errors_or_without_a_usable_sample() -> None:
    assert secure_length(10_000, SampleEstimate(5000, 2500), 0, EPSILONS) == 0
    assert secure_length(10_000, SampleEstimate(3, 0), 0, EPSILONS) == 0
    assert secure_length(1, SampleEstimate(1, 0), 0, EPSILONS) == 0


def test_the_sample_is_as_large_as_pays() -> None:
    m, qber = 50_000, 0.03
    best = best_sample_bits(m, qber, 1.05, EPSILONS)
    lengths = {
        k: secure_length(
            m - k,
            SampleEstimate(k, round(k * qber)),
            math.ceil(1.05 * (m - k) * binary_entropy(qber)),
            EPSILONS,
        )
        for k in (best // 4, best // 2, best, best * 2, best * 4)
    }
    assert max(lengths, key=lengths.__getitem__) == best


@pytest.mark.parametrize("m", [2, 3, 10, 100])
def test_a_block_that_cannot_give_a_key_still_has_a_sample_and_a_rest(m: int) -> None:
    assert 1 <= best_sample_bits(m, 0.03, 1.05, EPSILONS) < m
