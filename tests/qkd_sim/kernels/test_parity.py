from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qkd_sim.kernels import parity
from qkd_sim.kernels.bits import pack_words, unpack_words

Kernel = Callable[..., Any]
WAYS = ("compiled", "plain")


def kernel(name: str, way: str) -> Kernel:
    compiled = getattr(parity, name)
    chosen: Kernel = compiled if way == "compiled" else compiled.py_func
    return chosen


def some_bits(n: int, seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, n, dtype=np.uint8)


def fresh_pass(bits: NDArray[np.uint8], order: NDArray[np.int32]) -> parity.Pass:
    place = np.empty_like(order)
    place[order] = np.arange(order.size, dtype=np.int32)
    n_words = -(-bits.size // 64)
    return parity.Pass(
        pack_words(bits[order]),
        order,
        place,
        np.zeros(n_words + 1, np.uint64),
        np.zeros(n_words + 1, np.uint64),
    )


def ones(bitmap: NDArray[np.uint64]) -> list[int]:
    return np.flatnonzero(unpack_words(bitmap, bitmap.size * 64)).tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_bits_are_gathered_in_another_order(way: str, n: int) -> None:
    bits = some_bits(n)
    order = np.random.default_rng(4).permutation(n).astype(np.int32)
    out = np.zeros(-(-n // 64), np.uint64)
    kernel("gather", way)(pack_words(bits), order, out)
    assert unpack_words(out, n).tolist() == bits[order].tolist()
    place = np.empty(n, np.int32)
    kernel("invert", way)(order, place)
    assert order[place].tolist() == list(range(n))


@pytest.mark.parametrize("way", WAYS)
def test_the_parity_of_an_interval_is_that_of_its_bits(way: str) -> None:
    bits = some_bits(300)
    words = pack_words(bits)
    of_interval = kernel("interval_parity", way)
    for start, end in [(0, 1), (63, 65), (0, 64), (64, 128), (5, 60), (1, 300), (190, 300)]:
        assert of_interval(words, start, end) == bits[start:end].sum() % 2


@pytest.mark.parametrize("way", WAYS)
def test_parities_of_blocks_and_of_lower_halves_are_those_of_their_bits(way: str) -> None:
    bits = some_bits(300)
    words = pack_words(bits)
    ends = np.array([1, 64, 70, 200, 300], np.int64)
    out = np.empty(ends.size, np.uint8)
    kernel("block_parities", way)(words, ends, out)
    starts = [0, *ends[:-1].tolist()]
    expected = [bits[a:b].sum() % 2 for a, b in zip(starts, ends.tolist(), strict=True)]
    assert out.tolist() == expected
    intervals = np.array([[0, 2], [5, 8], [60, 190], [100, 300]], np.int64)
    lower = np.empty(len(intervals), np.uint8)
    kernel("lower_parities", way)(words, intervals, lower)
    assert lower.tolist() == [bits[a : (a + b) // 2].sum() % 2 for a, b in intervals]


@pytest.mark.parametrize("way", WAYS)
def test_narrowed_intervals_are_the_odd_halves_of_two_bits_or_more(way: str) -> None:
    intervals = np.array([[0, 2], [4, 7], [10, 13], [20, 28], [40, 48]], np.int64)
    branches = np.array([1, 1, 0, 1, 0], np.uint8)
    kept = kernel("narrow", way)(intervals, branches)
    assert intervals[:kept].tolist() == [[11, 13], [20, 24], [44, 48]]


@pytest.mark.parametrize("way", WAYS)
def test_a_pass_finds_exactly_the_errors_that_bisection_can_find(way: str) -> None:
    """Play one whole pass against the obvious computation on lists."""
    n, block = 130, 13
    order = np.random.default_rng(5).permutation(n).astype(np.int32)
    theirs = some_bits(n, 6)
    mine = theirs.copy()
    mine[[3, 50, 51, 77, 100, 129]] ^= 1
    state = fresh_pass(mine, order)
    ends = np.arange(block, n + 1, block, dtype=np.int64)
    blocks = theirs[order].reshape(-1, block).sum(axis=1) % 2
    odd = np.empty(ends.size, np.int64)
    n_odd = kernel("mark_blocks", way)(state, ends, blocks.astype(np.uint8), odd)
    differs = (mine ^ theirs)[order].reshape(-1, block).sum(axis=1) % 2
    expected = (np.flatnonzero(differs) * block).tolist()
    assert odd[:n_odd].tolist() == expected == ones(state.odd)
    assert ones(state.starts) == [0, *ends.tolist()]

    queued = np.repeat(odd[:n_odd], 2)  # a start may be queued more than once
    intervals = np.empty((queued.size, 2), np.int64)
    single = np.empty(queued.size, np.int64)
    n_intervals, n_single = kernel("take_odd", way)(state, queued, intervals, single)
    assert (n_intervals, n_single) == (len(expected), 0)
    assert intervals[:n_intervals].tolist() == [[start, start + block] for start in expected]
    assert ones(state.odd) == []

    found: list[int] = []
    intervals = intervals[:n_intervals]
    while len(intervals):
        told = np.array([theirs[order[a : (a + b) // 2]].sum() % 2 for a, b in intervals], np.uint8)
        kernel("split", way)(state.starts, intervals)
        assert set(ones(state.starts)) >= {(a + b) // 2 for a, b in intervals.tolist()}
        branches = np.empty(told.size, np.uint8)
        places = np.empty(told.size, np.int64)
        n_found = kernel("compare_halves", way)(state.words, intervals, told, branches, places)
        found += places[:n_found].tolist()
        intervals = intervals[: kernel("narrow", way)(intervals, branches)]
    assert len(found) == len(expected)
    assert all((mine ^ theirs)[order[place]] for place in found)


@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_bit_toggles_one_interval_of_every_other_pass(way: str) -> None:
    bits = some_bits(100)
    state = fresh_pass(bits, np.arange(99, -1, -1, dtype=np.int32))
    state.starts[0] = np.uint64(1 | 1 << 10 | 1 << 60)
    state.starts[1] = np.uint64(1 << 36)  # place 100: the end
    wrong = np.array([99, 95, 85, 5], np.int32)  # at places 0, 4, 14, 94
    queued = np.empty(wrong.size, np.int64)
    n_queued = kernel("flip", way)(state, wrong, False, queued)  # noqa: FBT003
    assert queued[:n_queued].tolist() == [0, 10, 60]
    assert ones(state.odd) == [10, 60]
    bits[wrong] ^= 1
    assert unpack_words(state.words, 100).tolist() == bits[::-1].tolist()
    assert kernel("flip", way)(state, wrong, True, queued) == 0  # noqa: FBT003
    bits[wrong] ^= 1
    assert unpack_words(state.words, 100).tolist() == bits[::-1].tolist()
    assert ones(state.odd) == [10, 60]
