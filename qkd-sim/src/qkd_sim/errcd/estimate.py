"""estimate - the error rate of a sifted key, from a disclosed random sample of it."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleEstimate:
    """What a random sample without replacement says about the error rate.

    Parameters
    ----------
    sample_bits
        How many bits were compared.
    errors
        How many of them differed.
    """

    sample_bits: int
    errors: int

    @property
    def qber(self) -> float:
        """Share of differing bits: an unbiased estimate of that of the whole block."""
        return self.errors / self.sample_bits

    @property
    def planning_qber(self) -> float:
        """An error rate to choose block sizes by: never zero."""
        return (self.errors + 0.5) / (self.sample_bits + 1)


def choose_sample(n_bits: int, sample_bits: int, seed: bytes) -> NDArray[np.bool_]:
    """Choose which bits to disclose; every subset of that size is equally likely.

    Parameters
    ----------
    n_bits
        Length of the sifted key.
    sample_bits
        How many bits to choose, at most `n_bits`.
    seed
        Drawn when both keys are fixed; both parties know it.

    Returns
    -------
    (n_bits,) ndarray of bool
        True for the bits of the sample.

    Notes
    -----
    Each bit gets 64 bits of SHAKE-256 as its lot; the smallest lots win. Of
    equal lots, which a block of 2^24 bits has with probability 2^-17, the
    earlier wins.
    """
    lots = np.frombuffer(hashlib.shake_256(seed + b"/sample").digest(8 * n_bits), "<u8")
    is_chosen = np.zeros(n_bits, np.bool_)
    highest = np.partition(lots, sample_bits - 1)[sample_bits - 1]
    is_chosen[lots < highest] = True
    ties = np.flatnonzero(lots == highest)
    is_chosen[ties[: sample_bits - int(is_chosen.sum())]] = True
    return is_chosen


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def log_lower_tail(errors: int, population: int, marked: int, sample_bits: int) -> float:
    """Return ``ln P(X <= errors)`` of a hypergeometric variable, exactly.

    Parameters
    ----------
    errors
        Up to how many marked elements the sample may have.
    population, marked
        How many elements there are, and how many of them are marked.
    sample_bits
        How many are drawn without replacement.
    """
    fewest = max(0, sample_bits - (population - marked))
    top = min(errors, marked, sample_bits)
    if top < fewest:
        return -math.inf
    log_top = (
        _log_choose(marked, top)
        + _log_choose(population - marked, sample_bits - top)
        - _log_choose(population, sample_bits)
    )
    # downwards from the largest term by the ratio of neighbouring probabilities
    term = total = 1.0
    for x in range(top, fewest, -1):
        term *= x * (population - marked - sample_bits + x)
        term /= (marked - x + 1) * (sample_bits - x + 1)
        total += term
        if term < 1e-17 * total and x < sample_bits * marked / population:
            break
    return log_top + math.log(total)


def most_key_errors(key_bits: int, sample: SampleEstimate, log_failure: float) -> int | None:
    """Bound the errors in the undisclosed bits by those in the sample.

    Parameters
    ----------
    key_bits
        How many bits were not disclosed.
    sample
        What the disclosed ones showed.
    log_failure
        Natural logarithm of the accepted probability that a key with more
        errors shows so few in its sample.

    Returns
    -------
    int or None
        The bound; None if not even half of the bits can be excluded.

    Notes
    -----
    With ``t + 1`` errors or more left in the key and at most ``x`` in the
    sample, the worst case is exactly ``x + t + 1`` in all: the probability of
    this event rises with the number of errors up to there and falls beyond. So
    the tail is exact, not a bound like Serfling's. See [1]_.

    References
    ----------
    .. [1] V. Mannalath, V. Zapatero, M. Curty, "Sharp finite statistics for
       quantum key distribution", 2024, arXiv:2410.04095.
    """
    population = key_bits + sample.sample_bits

    def is_excluded(bound: int) -> bool:
        marked = min(population, sample.errors + bound + 1)
        return log_lower_tail(sample.errors, population, marked, sample.sample_bits) <= log_failure

    excluded = key_bits // 2
    if not is_excluded(excluded):
        return None
    possible = -1
    while excluded - possible > 1:
        middle = (excluded + possible) // 2
        if is_excluded(middle):
            excluded = middle
        else:
            possible = middle
    return excluded
