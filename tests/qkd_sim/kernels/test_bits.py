from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from qkd_sim.kernels.bits import (
    fill_random,
    last_one,
    leading_zeros,
    mix,
    next_one,
    pack_words,
    popcount,
    shuffle,
    trailing_zeros,
    unpack_words,
)

Kernel = Callable[..., Any]
WORDS = [0, 1, 2, 3, 1 << 63, (1 << 64) - 1, 0x00F0_0000_0000_0100, 0x8000_0000_0000_0001]


def count(word: np.uint64) -> tuple[int, int, int]:
    return popcount(word), trailing_zeros(word), leading_zeros(word)


COUNTS: list[Kernel] = [count, njit(count)]


@given(word=st.one_of(st.sampled_from(WORDS), st.integers(0, (1 << 64) - 1)))
@settings(deadline=None, max_examples=80)
def test_words_are_counted_as_their_digits_say(word: int) -> None:
    digits = f"{word:064b}"
    expected = (
        digits.count("1"),
        64 - len(digits.rstrip("0")) if word else 64,
        len(digits) - len(digits.lstrip("0")),
    )
    value = np.uint64(word)
    assert [way(value) for way in COUNTS] == [expected, expected]


@pytest.mark.parametrize("find", [next_one, next_one.py_func])
def test_the_next_one_bit_is_found(find: Kernel) -> None:
    rng = np.random.default_rng(1)
    for share in (0.5, 0.01):
        bits = (rng.random(700) < share).astype(np.uint8)
        bits[-1] = 1
        words = pack_words(bits)
        ones = np.flatnonzero(bits)
        for start in [*range(130), *ones[:-1].tolist(), 698]:
            assert find(words, start) == ones[ones > start][0]


@pytest.mark.parametrize("find", [last_one, last_one.py_func])
def test_the_last_one_bit_is_found(find: Kernel) -> None:
    rng = np.random.default_rng(2)
    for share in (0.5, 0.01):
        bits = (rng.random(700) < share).astype(np.uint8)
        bits[0] = 1
        words = pack_words(bits)
        ones = np.flatnonzero(bits)
        for end in [*range(130), *ones.tolist(), 699]:
            assert find(words, end) == ones[ones <= end][-1]


def test_the_generator_is_splitmix() -> None:
    # first outputs for the seed 1234567, as the authors' own program gives them
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for draw in (mix, mix.py_func):
        state = np.array([1234567], np.uint64)
        with np.errstate(over="ignore"):
            assert [int(draw(state)) for _ in expected] == expected


@pytest.mark.parametrize("n", [1, 2, 63, 64, 1000])
def test_a_shuffled_order_has_everything_once(n: int) -> None:
    order = np.empty(n, np.int32)
    shuffle(order, np.uint64(n))
    assert sorted(order.tolist()) == list(range(n))
    plain = np.empty(n, np.int32)
    with np.errstate(over="ignore"):
        shuffle.py_func(plain, np.uint64(n))
    assert order.tolist() == plain.tolist()


def test_every_place_of_a_shuffle_gets_everything_equally_often() -> None:
    n, n_runs = 8, 8000
    counts = np.zeros((n, n))
    order = np.empty(n, np.int32)
    for run in range(n_runs):
        shuffle(order, np.uint64(run))
        counts[np.arange(n), order] += 1
    expected = n_runs / n
    # chi-square with (n - 1)**2 = 49 degrees of freedom: mean 49, sigma 9.9
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * 9.9


def test_random_words_are_half_ones() -> None:
    words = np.empty(4096, np.uint64)
    fill_random(words, np.uint64(5))
    ones = int(np.bitwise_count(words).sum())
    n_bits = words.size * 64
    assert abs(ones - n_bits / 2) < 4 * (n_bits / 4) ** 0.5
    plain = np.empty(9, np.uint64)
    with np.errstate(over="ignore"):
        fill_random.py_func(plain, np.uint64(5))
    assert plain.tolist() == words[:9].tolist()


@given(st.lists(st.integers(0, 1), max_size=300))
@settings(deadline=None, max_examples=60)
def test_packed_bits_are_unpacked_again(values: list[int]) -> None:
    bits = np.array(values, np.uint8)
    words = pack_words(bits)
    assert words.size == -(-bits.size // 64)
    assert sum(int(word) << 64 * i for i, word in enumerate(words)) == sum(
        bit << i for i, bit in enumerate(values)
    )
    assert unpack_words(words, bits.size).tolist() == values
