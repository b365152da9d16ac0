import shutil
from pathlib import Path

import pytest

from photon_files import SET_A, files_of
from program_runs import refused, run, run_apart
from qkd_sim.events import Events
from qkd_sim.packets import Type1
from qkd_sim.programs.pfind import main

T1, T2 = SET_A / "hec" / "t1", SET_A / "lec" / "t2"
INPUTS = ("-D", T1, "-d", T2, "-e", "0x4f87")


def test_set_a_prints_the_line_of_the_c_program(capsys: pytest.CaptureFixture[str]) -> None:
    expected = (SET_A / "logs" / "pfind_V1.log").read_text().splitlines()[-1]
    run(main, *INPUTS, "-r", "1", "-n", "16", "-V", "1", "-q", "17")
    assert capsys.readouterr().out == expected + "\n"
    run(main, *INPUTS, "-n", "16")
    assert capsys.readouterr().out == "8\n"


def test_the_offset_is_rounded_only_when_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(main, *INPUTS, "-n3", "-r4", "-V2")
    said = capsys.readouterr().out
    assert said.startswith("time difference: 0 ticks (0 ns), significance fine: ")


def test_the_default_is_one_epoch_and_it_is_a_program_of_its_own() -> None:
    ended = run_apart("-m", "qkd_sim.programs.pfind", *INPUTS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"8\n", b"")


def test_streams_are_read_from_their_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in (("1", T1), ("2", T2)):
        data = b"".join(path.read_bytes() for path in files_of(folder))
        (tmp_path / name).write_bytes(data)
    run(main, "-I", tmp_path / "1", "-i", tmp_path / "2", "-n", "5", "-l", tmp_path / "log")
    assert (tmp_path / "log").read_text() == "8\n"
    assert capsys.readouterr().out == ""


def test_files_are_deleted_after_success_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in (("t1", T1), ("t2", T2)):
        shutil.copytree(folder, tmp_path / name)
    inputs = ("-D", tmp_path / "t1", "-d", tmp_path / "t2", "-e", "0x4f87", "-k", "-K")
    assert "cannot be read" in refused(main, capsys, *inputs, "-n30")
    assert len(files_of(tmp_path / "t1")) == len(files_of(T1))
    run(main, *inputs, "-n2")
    for name in ("t1", "t2"):
        left = [path.name for path in files_of(tmp_path / name)]
        assert "00004f87" not in left
        assert "00004f88" not in left
        assert "00004f89" in left


def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "00004f98: cannot be read: No such" in refused(main, capsys, *INPUTS, "-n", "30")
    assert "order is 40" in refused(main, capsys, *INPUTS, "-q", "40")
    assert "resolution is 3 ns" in refused(main, capsys, *INPUTS, "-r", "3")
    assert "which epochs?" in refused(main, capsys, "-D", T1, "-d", T2)
    assert "'x' is not an epoch" in refused(main, capsys, "-D", T1, "-d", T2, "-e", "x", code=2)
    quiet = Type1(Type1.read(T1 / "00004f87").epoch, Events.empty())
    quiet.write(tmp_path)
    said = refused(main, capsys, "-D", tmp_path, "-d", T2, "-e", "0x4f87")
    # a packet of no events leaves its length to the end mark, which stands at once
    assert said == "pfind: one side has no events, so there is no offset to find"
