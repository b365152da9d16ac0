from pathlib import Path

import numpy as np
import pytest

from kme.errors import EpochFileError, InputError
from kme.ids import Epoch
from qkd_sim.packets import Type3
from qkd_sim.packets.packet import read_limited


def packet(number: int) -> Type3:
    return Type3(Epoch(number), np.ones(number, np.uint8), 1)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="00000005: cannot be read: No such file or directory"):
        Type3.read(tmp_path / "00000005")


def test_a_folder_is_no_packet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        Type3.read(tmp_path)


def test_a_folder_that_is_not_there_takes_no_packet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="00000005: cannot be written: No such file or directory"):
        packet(5).write(tmp_path / "missing")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    with pytest.raises(EpochFileError, match="byte 99: longer than 99 bytes"):
        read_limited(tmp_path / "file", 99)
    assert read_limited(tmp_path / "file", 100) == bytes(100)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(EpochFileError, match=f"byte {Type3.MAX_BYTES}: longer than"):
        Type3.read(Path("/dev/zero"))


def test_a_place_in_a_stream_is_counted_from_its_start(tmp_path: Path) -> None:
    first, second = packet(3).pack(), packet(40).pack()
    stream = tmp_path / "stream"
    stream.write_bytes(first + second[:-1])
    packets = Type3.read_stream(stream)
    assert next(packets).epoch == Epoch(3)
    with pytest.raises(
        EpochFileError, match=f"stream: byte {len(first) + 8}: 40 entries of 1 bits"
    ):
        next(packets)


def test_a_stream_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "stream").touch()
    assert list(Type3.read_stream(tmp_path / "stream")) == []


def test_a_text_is_a_name_and_not_a_file_that_must_fit() -> None:
    data = packet(5).pack()
    assert Type3.unpack(data, "00000006").epoch == Epoch(5)
    with pytest.raises(EpochFileError, match="not the file's name"):
        Type3.unpack(data, Path("00000006"))
