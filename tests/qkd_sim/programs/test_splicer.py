import shutil
from pathlib import Path

import numpy as np
import pytest

from kme.ids import Epoch
from photon_files import SET_A, files_of
from program_runs import refused, run, run_apart
from qkd_sim.packets import Type3, Type4
from qkd_sim.programs.splicer import main

T3, T4, KEYS = SET_A / "lec" / "t3", SET_A / "hec" / "t4", SET_A / "lec" / "rawkey"


@pytest.fixture
def key_dir(tmp_path: Path) -> Path:
    (tmp_path / "key").mkdir()
    return tmp_path / "key"


def keys_are_equal(key_dir: Path, n_epochs: int = 16) -> bool:
    names = [path.name for path in files_of(key_dir)]
    assert names == [path.name for path in files_of(KEYS)][:n_epochs]
    return all((key_dir / name).read_bytes() == (KEYS / name).read_bytes() for name in names)


def stream_of(folder: Path, path: Path) -> Path:
    path.write_bytes(b"".join(each.read_bytes() for each in files_of(folder)))
    return path


def test_set_a_is_spliced_to_the_files_of_the_c_program(key_dir: Path, tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("l", "L", "m")]
    options: list[str | Path] = ["-l", logs[0], "-L", logs[1], "-m", logs[2], "-V1"]
    run(main, "-d", T3, "-D", T4, "-f", key_dir, "-e", "0x4f87", "-q", "16", "-p", "1", *options)
    assert keys_are_equal(key_dir)
    costream = (SET_A / "logs" / "costream_V5.log").read_text().splitlines()
    expected = ["\t".join((line.split("\t")[0], line.split("\t")[2])) for line in costream]
    for log in logs:
        assert log.read_text().splitlines() == expected


def test_without_a_number_it_ends_with_the_last_type_4_file(key_dir: Path) -> None:
    ended = run_apart(
        *("-m", "qkd_sim.programs.splicer", "-d", T3, "-D", T4, "-f", key_dir, "-e", "20359")
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert keys_are_equal(key_dir)


def test_epochs_are_named_by_a_file_too(key_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "epochs").write_text("00004f87\n00004f88\n00004f89\n")
    run(main, "-d", T3, "-D", T4, "-f", key_dir, "-E", tmp_path / "epochs", "-q", "2")
    assert keys_are_equal(key_dir, 2)


def test_streams_give_a_stream(tmp_path: Path) -> None:
    type3, type4 = stream_of(T3, tmp_path / "3"), stream_of(T4, tmp_path / "4")
    run(main, "-i", type3, "-I", type4, "-o", tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == stream_of(KEYS, tmp_path / "expected").read_bytes()
    run(main, "-i", type3, "-I", type4, "-o", tmp_path / "key", "-e", "0x4f88", "-q", "1")
    assert (tmp_path / "key").read_bytes() == (KEYS / "00004f88").read_bytes()


def test_files_that_were_read_are_removed_if_asked_for(key_dir: Path, tmp_path: Path) -> None:
    for name, folder in (("3", T3), ("4", T4)):
        shutil.copytree(folder, tmp_path / name)
    options: list[str | Path] = ["-e", "0x4f87", "-q", "2", "-k", "-K"]
    run(main, "-d", tmp_path / "3", "-D", tmp_path / "4", "-f", key_dir, *options)
    assert len(files_of(tmp_path / "3")) == 18 - 2
    assert len(files_of(tmp_path / "4")) == 16 - 2
    assert not (tmp_path / "4" / "00004f88").exists()


def test_local_epochs_are_followed_over_their_wrap(key_dir: Path, tmp_path: Path) -> None:
    for name in ("3", "4"):
        (tmp_path / name).mkdir()
    for number in ((1 << 17) - 1, 0, 1):
        bits = np.array([1, 0, 1], np.uint8)
        Type3(Epoch(number), bits, 1).write(tmp_path / "3")
        Type4(Epoch(number), np.array([0, 2]), np.zeros(2, np.uint8), 8, 0).write(tmp_path / "4")
    run(main, "-d", tmp_path / "3", "-D", tmp_path / "4", "-f", key_dir, "-e", "0x1ffff")
    assert [path.name for path in files_of(key_dir)] == ["00000000", "00000001", "0001ffff"]


def test_bell_tests_go_where_they_are_sent(key_dir: Path, tmp_path: Path) -> None:
    for name in ("3", "4", "5"):
        (tmp_path / name).mkdir()
    Type3(Epoch(5), np.array([1, 2, 8], np.uint8), 4).write(tmp_path / "3")
    told = np.array([4, 4, 1], np.uint8)
    Type4(Epoch(5), np.arange(3), told, 8, 3).write(tmp_path / "4")
    options: list[str | Path] = ["-p", "4", "-e", "5", "-B", tmp_path / "5"]
    run(main, "-d", tmp_path / "3", "-D", tmp_path / "4", "-f", key_dir, *options)
    assert Type3.read(key_dir / "00000005").values.tolist() == [1, 0]
    assert Type3.read(tmp_path / "5" / "00000005").values.tolist() == [3 << 2 | 1]


def test_what_a_user_gets_wrong_is_one_line(
    key_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(*more: str | Path, type4: Path = T4) -> str:
        return refused(main, capsys, "-d", T3, "-D", type4, "-f", key_dir, *more)

    assert say().startswith("splicer: which epochs? Give the first one (-e)")
    assert say("-e", "0x4f86", "-q", "1") == (
        f"splicer: {T4 / '00004f86'}: cannot be read: No such file or directory"
    )
    assert say("-e", "0x4f87", "-p", "5") == (
        "splicer: epoch 00004f87: 1 bits per result and 0 per index; protocol 5 has 2 and 0"
    )
    bad = tmp_path / "4"
    bad.mkdir()
    (bad / "00004f87").write_bytes((T4 / "00004f87").read_bytes()[:-4])
    assert say("-e", "0x4f87", type4=bad).startswith(f"splicer: {bad / '00004f87'}: byte ")
    (tmp_path / "epochs").write_text("00004f87\n4f88\n")
    assert say("-E", tmp_path / "epochs").startswith(f"splicer: {tmp_path / 'epochs'}: line 2: ")
    said = refused(main, capsys, "-d", T3, "-D", T4, "-f", key_dir, "-e", "4f87", code=2)
    assert "argument -e/--start-epoch: '4f87' is not an epoch" in said


def test_a_stream_without_the_epoch_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    type3, type4 = stream_of(T3, tmp_path / "3"), stream_of(T4, tmp_path / "4")
    options: list[str | Path] = ["-i", type3, "-I", type4, "-o", tmp_path / "key", "-e", "0x4f97"]
    assert refused(main, capsys, *options) == f"splicer: {type4}: no packet of epoch 00004f97"
