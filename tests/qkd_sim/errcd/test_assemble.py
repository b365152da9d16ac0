from pathlib import Path

import numpy as np
import pytest

from errcd_parties import Bits, random_bits
from kme.ids import Epoch
from qkd_sim.errcd import assemble
from qkd_sim.errcd.assemble import raw_key_paths, read_block
from qkd_sim.errors import EpochFileError
from qkd_sim.packets import Type3

START = Epoch(0x4F87)


def write_epochs(directory: Path, *n_bits: int) -> list[Bits]:
    rng = np.random.default_rng(1)
    parts = [random_bits(rng, n) for n in n_bits]
    for i, part in enumerate(parts):
        Type3(Epoch(START.number + i), part, 1).write(directory)
    return parts


def test_the_bits_of_all_epochs_stand_one_behind_the_other(tmp_path: Path) -> None:
    parts = write_epochs(tmp_path, 33, 0, 64, 7)
    block = read_block(tmp_path, START, 4)
    assert block.bits.tolist() == np.concatenate(parts).tolist()
    assert (block.start_epoch, block.n_epochs) == (START, 4)
    assert read_block(tmp_path, START, 3).bits.size == 97


def test_epochs_without_a_file_are_left_out(tmp_path: Path) -> None:
    parts = write_epochs(tmp_path, 10, 20, 30)
    (tmp_path / "00004f88").unlink()
    expected = np.concatenate((parts[0], parts[2])).tolist()
    assert read_block(tmp_path, START, 5).bits.tolist() == expected


def test_local_epochs_run_on_at_zero(tmp_path: Path) -> None:
    for name in ("0001ffff", "00000000", "00000001"):
        (tmp_path / name).touch()
    paths = raw_key_paths(tmp_path, Epoch(0x1FFFF), 3)
    assert [path.name for path in paths] == ["0001ffff", "00000000", "00000001"]


def test_a_block_without_any_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EpochFileError, match="no raw key"):
        read_block(tmp_path, START, 3)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write_epochs(tmp_path, 100)
    (tmp_path / "00004f88").write_bytes(b"garbage")
    with pytest.raises(EpochFileError, match="00004f88"):
        read_block(tmp_path, START, 2)


def test_results_of_several_bits_are_no_raw_key(tmp_path: Path) -> None:
    Type3(START, np.array([3, 1], np.uint8), 4).write(tmp_path)
    with pytest.raises(EpochFileError, match="4 bits per entry"):
        read_block(tmp_path, START, 1)


def test_a_block_may_be_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "MAX_BLOCK_BITS", 150)
    write_epochs(tmp_path, 100, 100)
    with pytest.raises(EpochFileError, match="longer than 150"):
        read_block(tmp_path, START, 2)
