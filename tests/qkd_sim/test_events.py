import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import EpochFileError, InputError
from photon_files import SET_A, events, read_or_refuse
from qkd_sim.events import TIME_PERIOD_TICKS, Events, read_chunks

times = st.integers(0, TIME_PERIOD_TICKS - 1)
records = st.lists(st.tuples(times, st.integers(0, 255)), max_size=30)


def of_records(pairs: list[tuple[int, int]]) -> Events:
    return events([time for time, _ in pairs], [pattern for _, pattern in pairs])


@pytest.mark.parametrize("side", ["hec", "lec"])
def test_raw_events_of_the_c_simulator_are_read_and_written_back_byte_for_byte(
    side: str, tmp_path: Path
) -> None:
    path = SET_A / side / "events.raw"
    found = Events.read(path)
    assert len(found) == 10_000
    found.write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600


def test_a_record_is_two_words_with_the_high_one_first() -> None:
    data = events([0x1_2345_6789_ABCD], 0b1010).pack()
    x = int.from_bytes(data[:4], "little") << 32 | int.from_bytes(data[4:], "little")
    assert x >> 15 == 0x1_2345_6789_ABCD
    assert x & 0x7FFF == 0b1010


@settings(max_examples=100)
@given(records)
def test_what_is_packed_is_unpacked_again(pairs: list[tuple[int, int]]) -> None:
    original = of_records(pairs)
    data = original.pack()
    assert len(data) == 8 * len(pairs)
    found = Events.unpack(data, "stream")
    assert found.times_ticks.tolist() == original.times_ticks.tolist()
    assert found.patterns.tolist() == original.patterns.tolist()
    assert [str(found.times_ticks.dtype), str(found.patterns.dtype)] == ["int64", "uint8"]


@settings(max_examples=200)
@given(st.binary(max_size=64))
def test_any_bytes_are_events_or_an_error_that_names_the_place(data: bytes) -> None:
    outcome = read_or_refuse(lambda: Events.unpack(data, "stream"))
    if isinstance(outcome, EpochFileError):
        assert 0 <= outcome.offset_bytes <= len(data)
        assert str(outcome).startswith("stream: byte ")
    else:
        assert outcome.pack() == data


def test_a_record_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(events([1, 2, 3]).pack()[:-3])
    with pytest.raises(EpochFileError, match="byte 16: the last event is cut off: 5 of 8 bytes"):
        Events.read(path)


@pytest.mark.parametrize("bit", range(8, 15))
def test_a_record_with_a_reserved_bit_is_named(bit: int) -> None:
    data = bytearray(events([10, 20, 30]).pack())
    data[16 + 4 + bit // 8] |= 1 << bit % 8
    with pytest.raises(EpochFileError, match="byte 116: an event has bits 14 to 8 set"):
        Events.unpack(bytes(data), "stream", start_bytes=100)


@pytest.mark.parametrize("time", [-1, TIME_PERIOD_TICKS])
def test_a_time_beyond_49_bits_is_not_written(time: int) -> None:
    with pytest.raises(InputError, match=r"must be in 0\.\.2\^49 - 1"):
        events([5, time]).pack()


def test_times_without_patterns_are_no_events() -> None:
    with pytest.raises(InputError, match="both must be"):
        Events(np.zeros(2, np.int64), np.zeros(3, np.uint8))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: cannot be read: No such file"):
        Events.read(tmp_path / "missing")


def test_a_file_of_too_many_events_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkd_sim.events.MAX_FILE_EVENTS", 9)
    events(list(range(9))).write(tmp_path / "nine")
    events(list(range(10))).write(tmp_path / "ten")
    assert len(Events.read(tmp_path / "nine")) == 9
    with pytest.raises(EpochFileError, match="ten: byte 0: more than 9 events"):
        Events.read(tmp_path / "ten")


def test_an_empty_file_holds_no_events(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(Events.read(tmp_path / "empty")) == 0


def test_what_is_printed_of_events_does_not_tell_them() -> None:
    assert repr(events([12345], 8)) == "Events(n=1)"


def test_times_go_on_growing_where_the_recorded_ones_wrap() -> None:
    end = TIME_PERIOD_TICKS
    unwrapped = events([end - 5, end - 2, 1, 0, 7]).unwrapped_ticks()
    assert unwrapped.tolist() == [end - 5, end - 2, end + 1, end, end + 7]


@settings(max_examples=100)
@given(times, st.lists(st.integers(-(1 << 40), 1 << 47), max_size=40))
def test_unwrapped_times_differ_by_the_true_steps(start: int, steps: list[int]) -> None:
    true = np.cumsum([start, *steps]).astype(np.int64)
    found = events((true % TIME_PERIOD_TICKS).tolist()).unwrapped_ticks()
    assert found.tolist() == true.tolist()


def test_no_events_have_no_times_to_unwrap() -> None:
    assert Events.empty().unwrapped_ticks().tolist() == []
    assert len(Events.concatenate([])) == 0


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, n_bytes: int) -> None:
        self._data = io.BytesIO(data)
        self._n_bytes = n_bytes

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, self._n_bytes))


@pytest.mark.parametrize("n_bytes", [1, 3, 7, 8, 13, 1000])
def test_a_pipe_may_give_half_a_record_at_a_time(n_bytes: int) -> None:
    original = events(list(range(1, 40)))
    chunks = list(read_chunks(Dribble(original.pack(), n_bytes), "pipe", n_events=5))
    assert all(0 < len(chunk) <= 5 for chunk in chunks)
    assert Events.concatenate(chunks).times_ticks.tolist() == original.times_ticks.tolist()


def test_a_pipe_that_breaks_off_gives_its_whole_events_first() -> None:
    chunks = read_chunks(Dribble(events([1, 2]).pack()[:-1], 6), "pipe")
    assert len(next(chunks)) == 1
    with pytest.raises(EpochFileError, match="pipe: byte 8: the last event is cut off"):
        next(chunks)


def test_a_live_pipe_hands_on_what_has_come_so_far() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as stream, open(writer, "wb", buffering=0) as end:  # noqa: PTH123
        chunks = read_chunks(stream, "pipe")
        end.write(events([7]).pack())
        assert next(chunks).times_ticks.tolist() == [7]
        end.write(events([8, 9]).pack())
        assert next(chunks).times_ticks.tolist() == [8, 9]
