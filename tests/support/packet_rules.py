"""packet_rules - what every packet type must keep, as checks that each type's tests run."""

import struct
from pathlib import Path

import pytest
from hypothesis import strategies as st

from kme.errors import EpochFileError
from kme.ids import Epoch
from photon_files import read_or_refuse
from qkd_sim.packets import Packet

local_epochs = st.integers(0, (1 << 17) - 1).map(Epoch)
universal_epochs = st.integers(0, (1 << 32) - 1).map(Epoch)
epochs = st.one_of(
    st.tuples(local_epochs, st.just(value=False)), st.tuples(universal_epochs, st.just(value=True))
)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Return these bytes with a few changed, cut off, repeated or added."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["byte", "bit", "word", "cut", "add", "header"]))
        at = draw(st.integers(0, max(len(mutated) - 1, 0)))
        if how == "cut":
            del mutated[at:]
        elif how == "add":
            mutated += draw(st.binary(max_size=9))
        elif how == "header" and len(mutated) >= 24:
            value = draw(st.sampled_from([0, 1, 2, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
            struct.pack_into("<I", mutated, 4 * draw(st.integers(0, 5)), value)
        elif mutated and how == "bit":
            mutated[at] ^= 1 << draw(st.integers(0, 7))
        elif mutated and how == "byte":
            mutated[at] = draw(st.integers(0, 255))
        elif len(mutated) >= 4:
            struct.pack_into(
                "<I", mutated, at % (len(mutated) - 3), draw(st.integers(0, 2**32 - 1))
            )
    return bytes(mutated)


def check_whatever_is_read_is_canonical(
    packet_type: type[Packet], data: bytes, n_header_bytes: int
) -> None:
    """Any bytes are refused with a place, or are what the packet is written as.

    A header's length of 0 leaves it to the end mark, so there the length may
    differ.
    """
    outcome = read_or_refuse(lambda: packet_type.unpack(data, "stream"))
    if isinstance(outcome, EpochFileError):
        assert 0 <= outcome.offset_bytes <= len(data)
        assert str(outcome).startswith("stream: byte ")
        assert "\n" not in str(outcome)
        return
    again = outcome.pack()
    assert len(again) == len(data) >= n_header_bytes
    assert again[:8] + again[12:] == data[:8] + data[12:]
    assert data[8:12] in {again[8:12], bytes(4)}


def check_header_rules(packet: Packet, tmp_path: Path) -> None:
    """Tag, epoch, name and end of a file are what they must be, or an error says where not."""
    packet_type, data = type(packet), packet.pack()
    path = tmp_path / packet.epoch.file_name

    path.write_bytes(data)
    assert packet_type.read(path).pack() == data

    for tag in (packet_type.TYPE + 1, 0, 7, 0x100, 0x200 | packet_type.TYPE):
        path.write_bytes(struct.pack("<I", tag) + data[4:])
        with pytest.raises(EpochFileError, match=f"{path}: byte 0: tag is {tag:#x}, not that of"):
            packet_type.read(path)

    wrong_name = tmp_path / "0001ffff"
    wrong_name.write_bytes(data)
    with pytest.raises(EpochFileError, match=r"byte 4: epoch is .* which is not the file's name"):
        packet_type.read(wrong_name)

    local_but_large = struct.pack("<II", packet_type.TYPE, 1 << 17) + data[8:]
    with pytest.raises(EpochFileError, match="byte 4: epoch 00020000 is universal"):
        packet_type.unpack(local_but_large, "stream")

    for n_bytes in range(12):
        with pytest.raises(EpochFileError, match=f"byte {n_bytes}: cut off within the header"):
            packet_type.unpack(data[:n_bytes], "stream")

    for tail in (b"\0", b"1234", bytes(8), data):
        with pytest.raises(
            EpochFileError, match=f"byte {len(data)}: {len(tail)} bytes behind the packet's end"
        ):
            packet_type.unpack(data + tail, "stream")

    for n_bytes in range(12, len(data)):
        with pytest.raises(EpochFileError):
            packet_type.unpack(data[:n_bytes], "stream")

    huge = data[:8] + struct.pack("<I", 0xFFFFFFFF) + data[12:]
    with pytest.raises(EpochFileError, match="byte 8: 4294967295 "):
        packet_type.unpack(huge, "stream")
