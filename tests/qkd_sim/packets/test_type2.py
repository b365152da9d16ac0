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
from qkd_sim.packets import Type2

HEADER_BYTES = 24


def packet(
    offsets: list[int], bases: list[int] | None = None, width_bits: int = 17, base_bits: int = 1
) -> Type2:
    told = [0] * len(offsets) if bases is None else bases
    return Type2(
        Epoch(5), np.array(offsets, np.int64), np.array(told, np.uint8), width_bits, base_bits, 1
    )


@st.composite
def packets(draw: st.DrawFn) -> Type2:
    epoch, is_universal = draw(epochs)
    base_bits = draw(st.integers(0, 8))
    width_bits = draw(st.integers(2, 32 - base_bits))
    step = st.one_of(st.integers(2, 9), st.integers(2, 1 << 20), st.integers(2, 1 << 28))
    offsets = np.cumsum(np.array(draw(st.lists(step, max_size=20)), np.int64))
    if offsets.size and offsets[-1] >= 1 << 32:
        offsets = offsets[offsets < 1 << 32]
    bases = draw(
        st.lists(st.integers(0, (1 << base_bits) - 1), min_size=offsets.size, max_size=offsets.size)
    )
    protocol = draw(st.integers(0, 6))
    told = np.array(bases, np.uint8)
    return Type2(epoch, offsets, told, width_bits, base_bits, protocol, is_universal)


@settings(deadline=None, max_examples=100)
@given(packets())
def test_what_is_packed_is_unpacked_again(original: Type2) -> None:
    found = Type2.unpack(original.pack(), Path(original.epoch.file_name))
    assert np.array_equal(found.offsets_ticks, original.offsets_ticks)
    assert np.array_equal(found.bases, original.bases)
    for name in ("epoch", "width_bits", "base_bits", "protocol", "is_universal"):
        assert getattr(found, name) == getattr(original, name)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_packet_is_refused_or_is_a_packet(data: st.DataObject) -> None:
    mutated = data.draw(mutations(data.draw(packets()).pack()))
    check_whatever_is_read_is_canonical(Type2, mutated, HEADER_BYTES)


def test_a_header_that_is_wrong_is_refused(tmp_path: Path) -> None:
    check_header_rules(packet([2, 300_000, 300_002, (1 << 32) - 1], [0, 1, 1, 0]), tmp_path)


def test_entries_are_laid_out_as_specified() -> None:
    data = packet([5, 5 + (1 << 17)], [1, 0]).pack()
    assert data[:HEADER_BYTES] == struct.pack("<6I", 2, 5, 2, 17, 1, 1)
    bits = f"{5:017b}1" + "0" * 17 + f"{1 << 17:032b}0" + f"{1:017b}0"
    bits += "0" * (-len(bits) % 32)
    words = struct.unpack(f"<{len(bits) // 32}I", data[HEADER_BYTES:])
    assert "".join(f"{word:032b}" for word in words) == bits


def test_length_0_leaves_the_end_to_the_end_mark() -> None:
    original = packet([5, 9, 70], [1, 0, 1]).pack()
    assert Type2.unpack(original[:8] + bytes(4) + original[12:], "stream").pack() == original


@pytest.mark.parametrize(
    ("length", "rule"),
    [
        (2, "byte 28: more entries than the header says"),
        (4, "byte 8: the header says 4 entries; the end mark stands after 3"),
        (5, "byte 8: 5 entries do not fit into 3 words"),
        (1 << 31, "byte 8: 2147483648 entries do not fit into 3 words"),
    ],
)
def test_a_length_that_is_not_the_number_of_entries_is_refused(length: int, rule: str) -> None:
    data = bytearray(packet([5, 9, 70], [1, 0, 1]).pack())
    struct.pack_into("<I", data, 8, length)
    with pytest.raises(EpochFileError, match=rule):
        Type2.unpack(bytes(data), "stream")


@pytest.mark.parametrize(
    ("width_bits", "base_bits"), [(1, 1), (32, 1), (33, 0), (24, 9), (0, 0), (1 << 31, 0)]
)
def test_widths_that_cannot_be_are_neither_written_nor_read(
    width_bits: int, base_bits: int
) -> None:
    with pytest.raises(InputError, match=r"type 2 of epoch 00000005: (width is|base bits are)"):
        packet([], [], width_bits, base_bits).pack()
    data = struct.pack("<7I", 2, 5, 0, width_bits, base_bits, 1, 0)
    with pytest.raises(EpochFileError, match=r"byte 12: (width is|base bits are)"):
        Type2.unpack(data, "stream")


@pytest.mark.parametrize("offsets", [[1], [0], [5, 5], [5, 6], [9, 5], [-2], [2, 2 + (1 << 32)]])
def test_times_that_cannot_be_told_are_not_written(offsets: list[int]) -> None:
    with pytest.raises(InputError, match=f"entry {len(offsets) - 1} is too near to or too far"):
        packet(offsets).pack()


def test_bases_that_do_not_fit_are_not_written() -> None:
    with pytest.raises(InputError, match="data do not fit into 1 bits"):
        packet([5], [2]).pack()
    with pytest.raises(InputError, match="differences, but data of shape"):
        packet([5, 9], [1]).pack()


def test_times_may_be_late_by_2_ticks_for_each_event_and_no_more() -> None:
    end = 1 << 32
    late = packet([10, end - 1, end + 5])
    assert Type2.unpack(late.pack(), "stream").offsets_ticks.tolist() == [10, end - 1, end + 5]
    # entries of 18 and 50 bits stand before the one that is wrong
    with pytest.raises(EpochFileError, match="byte 32: entry 2 lies behind the epoch's end"):
        Type2.unpack(packet([10, end - 1, end + 6]).pack(), "stream")


@pytest.mark.parametrize("protocol", [-1, 1 << 32])
def test_a_protocol_that_is_no_word_is_not_written(protocol: int) -> None:
    empty = np.empty(0, np.int64), np.empty(0, np.uint8)
    with pytest.raises(InputError, match=r"protocol -?[0-9]+ does not fit into a word"):
        Type2(Epoch(5), *empty, 17, 1, protocol).pack()
