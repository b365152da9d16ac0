import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import EpochFileError, IdentifierError, InputError
from kme.ids import Epoch
from packet_rules import (
    check_header_rules,
    check_whatever_is_read_is_canonical,
    epochs,
    mutations,
)
from photon_files import at, events
from qkd_sim.packets import Type1

HEADER_BYTES = 20
SAMPLE = Type1(
    Epoch(5), events([at(5, 0), at(5, 0), at(5, 77), at(5, (1 << 32) - 1)], [1, 2, 0, 15])
)


@st.composite
def packets(draw: st.DrawFn) -> Type1:
    epoch, is_universal = draw(epochs)
    offsets = sorted(draw(st.lists(st.integers(0, (1 << 32) - 1), max_size=20)))
    patterns = draw(st.lists(st.integers(1, 255), min_size=len(offsets), max_size=len(offsets)))
    times = [at(epoch.number & 0x1FFFF, offset) for offset in offsets]
    return Type1(epoch, events(times, patterns), is_universal)


@settings(deadline=None, max_examples=80)
@given(packets())
def test_what_is_packed_is_unpacked_again(packet: Type1) -> None:
    data = packet.pack()
    assert len(data) == 20 + 8 * (len(packet.events) + 1)
    found = Type1.unpack(data, Path(packet.epoch.file_name))
    assert (found.epoch, found.is_universal) == (packet.epoch, packet.is_universal)
    assert np.array_equal(found.events.times_ticks, packet.events.times_ticks)
    assert np.array_equal(found.events.patterns, packet.events.patterns)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_packet_is_refused_or_is_a_packet(data: st.DataObject) -> None:
    original = data.draw(packets()).pack()
    mutated = data.draw(mutations(original))
    check_whatever_is_read_is_canonical(Type1, mutated, HEADER_BYTES)


def test_a_header_that_is_wrong_is_refused(tmp_path: Path) -> None:
    check_header_rules(SAMPLE, tmp_path)


def test_the_records_are_those_of_the_raw_events() -> None:
    data = SAMPLE.pack()
    assert data[:HEADER_BYTES] == struct.pack("<5I", 1, 5, 4, 49, 4)
    assert data[HEADER_BYTES:-8] == SAMPLE.events.pack()
    assert data[-8:] == bytes(8)


def test_length_0_leaves_the_end_to_the_end_mark() -> None:
    data = bytearray(SAMPLE.pack())
    data[8:12] = bytes(4)
    assert Type1.unpack(bytes(data), "stream").pack() == SAMPLE.pack()
    with pytest.raises(EpochFileError, match="byte 52: cut off: no end mark"):
        Type1.unpack(bytes(data[:-8]), "stream")


@pytest.mark.parametrize(("length", "place"), [(1, 28), (3, 44), (5, 8), (1 << 28, 8)])
def test_a_length_that_is_not_the_number_of_events_is_refused(length: int, place: int) -> None:
    data = bytearray(SAMPLE.pack())
    struct.pack_into("<I", data, 8, length)
    with pytest.raises(EpochFileError, match=f"stream: byte {place}: "):
        Type1.unpack(bytes(data), "stream")


@pytest.mark.parametrize(
    ("times", "patterns", "rule"),
    [
        ([at(6, 1)], [1], "event 0 is not of this epoch"),
        ([at(5, 9), at(5, 8)], [1, 1], "event 1 is earlier than the one before"),
        ([at(5, 9), at(4, 8)], [1, 1], "event 1 is not of this epoch"),
    ],
)
def test_events_that_do_not_belong_are_neither_written_nor_read(
    times: list[int], patterns: list[int], rule: str
) -> None:
    bad = events(times, patterns)
    with pytest.raises(InputError, match=f"type 1 of epoch 00000005: {rule}"):
        Type1(Epoch(5), bad).pack()
    data = struct.pack("<5I", 1, 5, len(bad), 49, 4) + bad.pack() + bytes(8)
    with pytest.raises(EpochFileError, match=rule):
        Type1.unpack(data, "stream")


def test_an_event_that_is_all_zero_is_not_written() -> None:
    with pytest.raises(InputError, match="event 0 is all zero"):
        Type1(Epoch(0), events([0], 0)).pack()
    assert len(Type1.unpack(Type1(Epoch(0), events([0], 1)).pack(), "stream").events) == 1


@pytest.mark.parametrize("place", [12, 16])
def test_other_bits_per_entry_are_refused(place: int) -> None:
    data = bytearray(SAMPLE.pack())
    data[place] += 1
    with pytest.raises(EpochFileError, match="byte 12: bits per entry and base bits are"):
        Type1.unpack(bytes(data), "stream")


def test_a_universal_epoch_is_not_called_local() -> None:
    with pytest.raises(IdentifierError, match="cannot be called local"):
        Type1(Epoch(1 << 17), events([])).pack()
    assert Type1(Epoch(1 << 17), events([]), is_universal=True).pack()[:2] == b"\1\1"


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    assert SAMPLE.write(tmp_path).stat().st_mode & 0o777 == 0o600
