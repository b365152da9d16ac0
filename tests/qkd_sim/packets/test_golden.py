"""Every packet of the C programs is read, and written back byte for byte."""

import re
import struct
from pathlib import Path

import pytest

from photon_files import SET_A, SET_C, SET_E, VECTORS, files_of
from qkd_sim.packets import Packet, Type1, Type2, Type3, Type4

FOLDERS: list[tuple[Path, type[Packet]]] = [
    (SET_A / "hec" / "t1", Type1),
    (SET_A / "lec" / "t2", Type2),
    (SET_A / "lec" / "t3", Type3),
    (SET_A / "hec" / "t4", Type4),
    (SET_A / "hec" / "rawkey", Type3),
    (SET_A / "lec" / "rawkey", Type3),
    (SET_C / "t2", Type2),
    (SET_C / "t3", Type3),
    *(
        (SET_E / run / f"{party}_rawkey", Type3)
        for run in ("skip_estimation", "with_estimation")
        for party in ("alice", "bob")
    ),
]


@pytest.mark.parametrize(
    ("folder", "packet_type"), FOLDERS, ids=lambda value: str(getattr(value, "name", value))
)
def test_a_packet_of_the_c_programs_is_written_back_byte_for_byte(
    folder: Path, packet_type: type[Packet], tmp_path: Path
) -> None:
    for path in files_of(folder):
        packet = packet_type.read(path)
        assert packet.epoch.file_name == path.name
        assert not packet.is_universal
        written = packet.write(tmp_path)
        assert written.name == path.name
        assert written.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("folder", "packet_type"), FOLDERS, ids=lambda value: str(getattr(value, "name", value))
)
def test_packets_one_behind_the_other_are_the_packets_of_the_files(
    folder: Path, packet_type: type[Packet], tmp_path: Path
) -> None:
    contents = [path.read_bytes() for path in files_of(folder)]
    stream = tmp_path / "stream"
    stream.write_bytes(b"".join(contents))
    assert [packet.pack() for packet in packet_type.read_stream(stream)] == contents


def test_types_1_2_and_3_hold_what_the_choppers_logged() -> None:
    logs = SET_A / "logs"
    for line in (logs / "chopper2_V3.log").read_text().splitlines():
        name, n_events = line.split("\t")[:2]
        assert len(Type1.read(SET_A / "hec" / "t1" / name).events) == int(n_events)
    for folder in (SET_A, SET_C):
        log = folder / "logs" / "chopper_V3.log"
        of_lec = folder / "lec" if folder == SET_A else folder
        for line in log.read_text().splitlines():
            found = re.fullmatch(r"epoch: (\w{8}), entries: (\d+), type2bits: (\d+)", line)
            assert found
            name, n_entries, width_bits = found[1], int(found[2]), int(found[3])
            type2 = Type2.read(of_lec / "t2" / name)
            assert (type2.offsets_ticks.size, type2.width_bits) == (n_entries, width_bits)
            assert (type2.base_bits, type2.protocol) == (1, 1)
            assert Type3.read(of_lec / "t3" / name).values.size == n_entries


def test_type_4_and_both_raw_keys_hold_what_costream_logged() -> None:
    for line in (SET_A / "logs" / "costream_V5.log").read_text().splitlines():
        name, _, n_kept = line.split("\t")[:3]
        assert Type4.read(SET_A / "hec" / "t4" / name).indices.size == int(n_kept)
        for side in ("hec", "lec"):
            assert Type3.read(SET_A / side / "rawkey" / name).values.size == int(n_kept)


def test_raw_and_final_keys_are_as_long_as_errcd_said() -> None:
    pattern = re.compile(
        r"startepoch: (\w{8}) initial bit number: (\d+) final bit number: (\d+) .*"
    )
    n_blocks = 0
    for party in ("alice", "bob"):
        for run in ("skip_estimation", "with_estimation"):
            log = SET_E / run / f"{party}_notify_V5.log"
            found = pattern.fullmatch(log.read_text().strip())
            assert found
            raw = files_of(SET_E / run / f"{party}_rawkey")
            assert sum(Type3.read(path).values.size for path in raw) == int(found[2])
            final = (SET_E / run / f"{party}_t7" / found[1]).read_bytes()
            assert struct.unpack("<4I", final[:16])[3] == int(found[3])
            n_blocks += 1
    for side in ("hec", "lec"):
        log = SET_A / "logs" / f"ec_notify_{side}_V5.log"
        for line in log.read_text().splitlines():
            found = pattern.fullmatch(line)
            assert found
            tag, start, n_epochs, n_bits = struct.unpack(
                "<4I", (SET_A / side / "t7" / found[1]).read_bytes()[:16]
            )
            assert (tag, n_bits) == (7, int(found[3]))
            raw = [SET_A / side / "rawkey" / f"{start + i:08x}" for i in range(n_epochs)]
            assert sum(Type3.read(path).values.size for path in raw) == int(found[2])
            n_blocks += 1
    assert n_blocks == 4 + 8


def test_the_vectors_are_small_and_explained() -> None:
    assert sum(path.stat().st_size for path in VECTORS.rglob("*") if path.is_file()) < 2 << 20
    readme = (VECTORS / "README.md").read_text()
    for folder in VECTORS.iterdir():
        assert folder.name == "README.md" or f"`{folder.name}`" in readme
