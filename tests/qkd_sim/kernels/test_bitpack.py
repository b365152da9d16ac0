from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_sim.kernels.bitpack import pack_bits, unpack_bits

Kernel = Callable[..., Any]
WAYS: dict[str, tuple[Kernel, Kernel]] = {
    "compiled": (pack_bits, unpack_bits),
    "plain": (pack_bits.py_func, unpack_bits.py_func),
}


def by_text(values: list[int], n_bits: int) -> list[int]:
    """Write all bits as digits, cut them into words."""
    digits = "".join(f"{value:0{n_bits}b}" for value in values)
    digits += "0" * (-len(digits) % 32)
    return [int(digits[i : i + 32], 2) for i in range(0, len(digits), 32)]


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_bits=st.integers(1, 8))
def test_bits_are_packed_as_written_digit_by_digit(
    way: str, data: st.DataObject, n_bits: int
) -> None:
    pack, unpack = WAYS[way]
    values = data.draw(st.lists(st.integers(0, (1 << n_bits) - 1), max_size=80))
    expected = by_text(values, n_bits)
    words = np.full(len(expected), 0xDEADBEEF, np.uint32)
    pack(np.array(values, np.uint8), n_bits, words)
    assert words.tolist() == expected
    found = np.full(len(values), 0xAA, np.uint8)
    unpack(words, n_bits, found)
    assert found.tolist() == values


@pytest.mark.parametrize("way", WAYS)
def test_the_first_bit_is_the_highest_of_its_word(way: str) -> None:
    words = np.empty(2, np.uint32)
    WAYS[way][0](np.array([1] + [0] * 31 + [1], np.uint8), 1, words)
    assert words.tolist() == [0x80000000, 0x80000000]
