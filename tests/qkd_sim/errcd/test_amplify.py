import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errcd_parties import Bits, random_bits
from qkd_sim.errcd import amplify as module
from qkd_sim.errcd.amplify import amplify
from qkd_sim.errors import KeyLengthError
from qkd_sim.kernels.toeplitz import HAS_CARRYLESS


def by_matrix(key: Bits, seed: Bits, m_bits: int) -> Bits:
    """Build the matrix: first row from right to left, then first column downwards."""
    n = key.size
    matrix = np.empty((m_bits, n), np.int64)
    for row in range(m_bits):
        for column in range(n):
            matrix[row, column] = seed[n - 1 + row - column]
    result: Bits = (matrix @ key % 2).astype(np.uint8)
    return result


def by_windows(key: Bits, seed: Bits, m_bits: int) -> Bits:
    rows = np.lib.stride_tricks.sliding_window_view(seed, key.size)[:, ::-1]
    assert len(rows) == m_bits
    result: Bits = (rows.astype(np.float32) @ key.astype(np.float32) % 2).astype(np.uint8)
    return result


def test_the_documented_example_holds() -> None:
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0
    key = np.array([1, 0, 1, 1], np.uint8)
    seed = np.array([1, 0, 0, 1, 1], np.uint8)
    assert amplify(key, seed, 2).tolist() == [0, 1] == by_matrix(key, seed, 2).tolist()


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 70), part=st.floats(0, 1), seed=st.integers(0, 1 << 20))
def test_small_keys_are_multiplied_by_the_explicit_matrix(n: int, part: float, seed: int) -> None:
    m_bits = 1 + int(part * (n - 1))
    rng = np.random.default_rng(seed)
    key, bits = random_bits(rng, n), random_bits(rng, n + m_bits - 1)
    assert amplify(key, bits, m_bits).tolist() == by_matrix(key, bits, m_bits).tolist()


@pytest.mark.parametrize(
    ("n", "m_bits"),
    [(2047, 2047), (2048, 2048), (2049, 1), (4096, 2049), (9001, 4321), (12_345, 6789)],
)
def test_large_keys_are_multiplied_by_the_matrix_whatever_the_size(n: int, m_bits: int) -> None:
    rng = np.random.default_rng(n)
    key, seed = random_bits(rng, n), random_bits(rng, n + m_bits - 1)
    expected = by_windows(key, seed, m_bits).tolist()
    assert amplify(key, seed, m_bits).tolist() == expected
    assert amplify(key, seed, m_bits, is_portable=True).tolist() == expected


@pytest.mark.parametrize(("n", "m_bits"), [(100_000, 61_803), (262_144, 65_537)])
def test_both_ways_give_the_same_bits_as_a_fourier_transform(n: int, m_bits: int) -> None:
    rng = np.random.default_rng(n)
    key, seed = random_bits(rng, n), random_bits(rng, n + m_bits - 1)
    size = n + m_bits - 1  # cyclic: only coefficients below n - 1 are disturbed
    product = np.fft.irfft(np.fft.rfft(seed, size) * np.fft.rfft(key, size), size)
    rounded = np.rint(product)
    assert np.abs(product - rounded).max() < 0.01
    expected = (rounded[n - 1 :].astype(np.int64) & 1).tolist()
    assert amplify(key, seed, m_bits, is_portable=True).tolist() == expected
    if HAS_CARRYLESS:
        assert amplify(key, seed, m_bits, is_portable=False).tolist() == expected


def test_two_keys_collide_as_seldom_as_two_universality_asks() -> None:
    """Over all seeds, exactly one in ``2**m`` maps two given keys to the same value."""
    n, m_bits = 6, 3
    seeds = [
        np.array([value >> i & 1 for i in range(n + m_bits - 1)], np.uint8)
        for value in range(1 << (n + m_bits - 1))
    ]
    difference = np.array([0, 1, 0, 0, 1, 1], np.uint8)
    for key in (np.zeros(n, np.uint8), np.array([1, 1, 0, 1, 0, 1], np.uint8)):
        n_equal = sum(
            amplify(key, seed, m_bits).tolist() == amplify(key ^ difference, seed, m_bits).tolist()
            for seed in seeds
        )
        assert n_equal == len(seeds) >> m_bits


def test_amplification_is_linear() -> None:
    rng = np.random.default_rng(3)
    one, two, seed = random_bits(rng, 3000), random_bits(rng, 3000), random_bits(rng, 4499)
    together = amplify(one ^ two, seed, 1500)
    assert together.tolist() == (amplify(one, seed, 1500) ^ amplify(two, seed, 1500)).tolist()


@pytest.mark.parametrize(("n", "seed_bits", "m_bits"), [(4, 4, 0), (4, 8, 5), (4, 5, 3), (0, 0, 1)])
def test_lengths_that_do_not_fit_are_refused(n: int, seed_bits: int, m_bits: int) -> None:
    with pytest.raises(KeyLengthError):
        amplify(np.zeros(n, np.uint8), np.zeros(seed_bits, np.uint8), m_bits)
