from pathlib import Path

import pytest

from photon_files import SET_A, at, events, files_of
from program_runs import refused, run, run_apart
from qkd_sim.packets import Type1
from qkd_sim.programs.chopper2 import main

EVENTS = SET_A / "hec" / "events.raw"


@pytest.fixture
def t1(tmp_path: Path) -> Path:
    (tmp_path / "t1").mkdir()
    return tmp_path / "t1"


def test_set_a_is_packaged_to_the_files_and_the_log_of_the_c_program(
    t1: Path, tmp_path: Path
) -> None:
    run(main, "-i", EVENTS, "-D", t1, "-l", tmp_path / "log", "-V", "3")
    theirs = files_of(SET_A / "hec" / "t1")
    assert [path.name for path in files_of(t1)] == [path.name for path in theirs]
    assert all((t1 / path.name).read_bytes() == path.read_bytes() for path in theirs)
    assert (tmp_path / "log").read_bytes() == (SET_A / "logs" / "chopper2_V3.log").read_bytes()


def test_it_is_a_filter_too(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    ended = run_apart(
        "-m", "qkd_sim.programs.chopper2", "-O", stream, "-V-1", stdin=EVENTS.read_bytes()
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    theirs = b"".join(path.read_bytes() for path in files_of(SET_A / "hec" / "t1"))
    assert stream.read_bytes() == theirs


def test_logs_are_appended_to(t1: Path, tmp_path: Path) -> None:
    raw, log, debug = (tmp_path / name for name in ("raw", "log", "debug"))
    events([at(5, 9), at(5, 8), at(6, 1)], 3).write(raw)
    for _ in range(2):
        run(main, "-i", raw, "-D", t1, "-V3", "-4", "-l", log, "-d", debug)
    assert log.read_text() == "00000005\t1\t1\t1\t0\t0\n" * 2
    assert debug.read_text() == "00000005\tignored\t1\n" * 2


def test_an_event_after_a_gap_is_ignored_if_asked_for(t1: Path, tmp_path: Path) -> None:
    events([at(5, 0), at(5, 8000), at(5, 16_001), at(5, 17_000)]).write(tmp_path / "raw")
    run(main, "-i", tmp_path / "raw", "-D", t1, "-m", "1", "--keep-last", "-V-1")
    found = Type1.read(t1 / "00000005").events.times_ticks - at(5, 0)
    assert found.tolist() == [0, 8000, 17_000]


def test_what_a_user_gets_wrong_is_one_line(
    t1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    assert (
        refused(main, capsys, "-i", raw, "-D", t1) == f"chopper2: {raw}: No such file or directory"
    )
    raw.write_bytes(bytes(7))
    said = refused(main, capsys, "-i", raw, "-D", t1)
    assert said == f"chopper2: {raw}: byte 0: the last event is cut off: 7 of 8 bytes"
    log = tmp_path / "missing" / "log"
    said = refused(main, capsys, "-i", raw, "-D", t1, "-l", log)
    assert said == f"chopper2: {log}: No such file or directory"
    assert refused(main, capsys, code=2).startswith("chopper2: error: one of the arguments -D")


def test_whole_epochs_before_a_broken_event_are_kept(
    t1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(events([at(5, 1), at(6, 1), at(7, 1)]).pack() + b"\1\2\3")
    refused(main, capsys, "-i", raw, "-D", t1)
    assert [path.name for path in files_of(t1)] == ["00000005", "00000006"]
