from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qkd_sim.kernels.deltas import decode_entries, encode_entries

Kernel = Callable[..., Any]
ENCODERS: dict[str, Kernel] = {"compiled": encode_entries, "plain": encode_entries.py_func}
DECODERS: dict[str, Kernel] = {"compiled": decode_entries, "plain": decode_entries.py_func}
WAYS = list(ENCODERS)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int]:
    base_bits = draw(st.integers(0, 8))
    return draw(st.integers(2, 32 - base_bits)), base_bits


@st.composite
def entries(draw: st.DrawFn) -> tuple[int, int, list[int], list[int]]:
    width_bits, base_bits = draw(layouts())
    value = st.one_of(
        st.integers(2, (1 << width_bits) - 1),
        st.integers(2, (1 << 32) - 1),
        st.just((1 << 32) - 1),
    )
    values = draw(st.lists(value, max_size=30))
    datum = st.integers(0, (1 << base_bits) - 1)
    return width_bits, base_bits, values, [draw(datum) for _ in values]


def digits(value: int, n_bits: int) -> str:
    return f"{value:0{n_bits}b}" if n_bits else ""


def by_text(width_bits: int, base_bits: int, values: list[int], data: list[int]) -> list[int]:
    """Write the grammar digit by digit, cut it into words."""
    text = ""
    for value, datum in zip(values, data, strict=True):
        if value < 1 << width_bits:
            text += digits(value, width_bits) + digits(datum, base_bits)
        else:
            text += digits(0, width_bits) + digits(value, 32) + digits(datum, base_bits)
    text += digits(1, width_bits) + digits(0, base_bits)
    text += "0" * (-len(text) % 32)
    return [int(text[i : i + 32], 2) for i in range(0, len(text), 32)]


def decoded(
    way: str, words: list[int], width_bits: int, base_bits: int, n_room: int
) -> tuple[tuple[int, int, int], NDArray[np.int64], NDArray[np.uint8]]:
    values, data = np.zeros(n_room, np.int64), np.zeros(n_room, np.uint8)
    outcome = DECODERS[way](np.array(words, np.uint32), width_bits, base_bits, values, data)
    return outcome, values, data


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, max_examples=80)
@given(entries())
def test_entries_are_written_as_the_grammar_says_and_read_back(
    way: str, entry: tuple[int, int, list[int], list[int]]
) -> None:
    width_bits, base_bits, values, data = entry
    expected = by_text(width_bits, base_bits, values, data)
    words = np.full(len(expected) + 1, 0xDEADBEEF, np.uint32)
    arrays = (np.array(values, np.int64), np.array(data, np.uint8))
    n_words = ENCODERS[way](*arrays, width_bits, base_bits, words)
    assert words.tolist() == [*expected, 0xDEADBEEF]
    assert n_words == len(expected)

    outcome, found, found_data = decoded(way, words.tolist(), width_bits, base_bits, len(values))
    assert outcome == (len(values), 32 * n_words, 0)
    assert found.tolist() == values
    assert found_data.tolist() == data


@settings(deadline=None, max_examples=200)
@given(layouts(), st.lists(st.integers(0, (1 << 32) - 1), max_size=6), st.integers(0, 8))
def test_both_ways_of_reading_agree_on_any_words(
    layout: tuple[int, int], words: list[int], n_room: int
) -> None:
    (outcome, values, data), plain = (
        decoded(way, words, *layout, n_room) for way in ("compiled", "plain")
    )
    assert outcome == plain[0]
    assert values.tolist() == plain[1].tolist()
    assert data.tolist() == plain[2].tolist()
    assert outcome[0] <= n_room
    assert outcome[1] <= 32 * len(words)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("text", "n_room", "expected"),
    [
        ("0101" * 8, 9, (8, 32, 1)),  # no end mark
        ("0000" + "0" * 28, 9, (0, 0, 1)),  # long entry cut off
        ("0101" + "0110" + "0001", 1, (1, 4, 2)),  # one entry too many
        ("0101" + "0001" + "0" * 23 + "1", 9, (1, 32, 5)),  # bits behind the end
        ("0" * 4 + "0" * 28 + "1111" + "0001", 9, (0, 0, 4)),  # long entry of a short value
        ("", 9, (0, 0, 1)),
    ],
)
def test_each_broken_rule_has_its_status_and_place(
    way: str, text: str, n_room: int, expected: tuple[int, int, int]
) -> None:
    text += "0" * (-len(text) % 32)
    words = [int(text[i : i + 32], 2) for i in range(0, len(text), 32)]
    assert decoded(way, words, 4, 0, n_room)[0] == expected


@pytest.mark.parametrize("way", WAYS)
def test_an_end_mark_with_data_is_none(way: str) -> None:
    words = [int("00010" * 0 + "01011" + "00011" + "0" * 22, 2)]
    assert decoded(way, words, 4, 1, 9)[0] == (1, 5, 3)
