import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import EpochFileError, InputError
from kme.ids import Epoch
from packet_rules import (
    check_header_rules,
    check_whatever_is_read_is_canonical,
    epochs,
    mutations,
)
from qkd_sim.packets import Type4

HEADER_BYTES = 20


def packet(
    indices: list[int], data: list[int] | None = None, width_bits: int = 5, base_bits: int = 0
) -> Type4:
    said = [0] * len(indices) if data is None else data
    return Type4(
        Epoch(5), np.array(indices, np.int64), np.array(said, np.uint8), width_bits, base_bits
    )


@st.composite
def packets(draw: st.DrawFn) -> Type4:
    epoch, is_universal = draw(epochs)
    base_bits = draw(st.integers(0, 8))
    width_bits = draw(st.integers(2, 32 - base_bits))
    step = st.one_of(st.integers(1, 5), st.integers(1, 1 << 27))
    steps = draw(st.lists(step, max_size=20))
    indices = np.cumsum(np.array(steps, np.int64)) - 1
    datum = st.integers(0, (1 << base_bits) - 1)
    data = np.array([draw(datum) for _ in steps], np.uint8)
    return Type4(epoch, indices, data, width_bits, base_bits, is_universal)


@settings(deadline=None, max_examples=100)
@given(packets())
def test_what_is_packed_is_unpacked_again(original: Type4) -> None:
    found = Type4.unpack(original.pack(), Path(original.epoch.file_name))
    assert np.array_equal(found.indices, original.indices)
    assert np.array_equal(found.data, original.data)
    for name in ("epoch", "width_bits", "base_bits", "is_universal"):
        assert getattr(found, name) == getattr(original, name)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_packet_is_refused_or_is_a_packet(data: st.DataObject) -> None:
    mutated = data.draw(mutations(data.draw(packets()).pack()))
    check_whatever_is_read_is_canonical(Type4, mutated, HEADER_BYTES)


def test_a_header_that_is_wrong_is_refused(tmp_path: Path) -> None:
    check_header_rules(packet([0, 1, 40, 1000]), tmp_path)


def test_entries_are_laid_out_as_specified() -> None:
    data = packet([0, 1, 40]).pack()
    assert data[:HEADER_BYTES] == struct.pack("<5I", 4, 5, 3, 5, 0)
    bits = f"{2:05b}{3:05b}" + "0" * 5 + f"{41:032b}" + f"{1:05b}"
    bits += "0" * (-len(bits) % 32)
    words = struct.unpack(f"<{len(bits) // 32}I", data[HEADER_BYTES:])
    assert "".join(f"{word:032b}" for word in words) == bits


def test_no_indices_are_an_end_mark_alone() -> None:
    assert packet([]).pack() == struct.pack("<6I", 4, 5, 0, 5, 0, 1 << 27)
    assert Type4.unpack(packet([]).pack(), "stream").indices.size == 0


def test_an_index_that_is_repeated_is_neither_written_nor_read() -> None:
    with pytest.raises(InputError, match="entry 2 is too near"):
        packet([3, 4, 4]).pack()
    bits = f"{5:05b}{3:05b}{2:05b}{1:05b}" + "0" * 12
    data = struct.pack("<6I", 4, 5, 3, 5, 0, int(bits, 2))
    with pytest.raises(EpochFileError, match="byte 21: entry 2 repeats the index before"):
        Type4.unpack(data, "stream")


@pytest.mark.parametrize("indices", [[-1], [5, 3], [1 << 32], [0, (1 << 32) - 2]])
def test_indices_that_cannot_be_told_are_not_written(indices: list[int]) -> None:
    with pytest.raises(InputError, match=f"entry {len(indices) - 1} is too near to or too far"):
        packet(indices).pack()


def test_a_width_that_cannot_be_is_refused() -> None:
    with pytest.raises(EpochFileError, match="byte 12: width is 30 bits"):
        Type4.unpack(struct.pack("<6I", 4, 5, 0, 30, 4, 0), "stream")


def test_indices_tell_nothing_secret_but_are_long_and_not_printed() -> None:
    assert repr(packet([1, 2])) == (
        "Type4(epoch=Epoch(number=5), width_bits=5, base_bits=0, is_universal=False)"
    )
