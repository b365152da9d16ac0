import os
import stat
import threading
from pathlib import Path

import pytest

from photon_files import SET_A, SET_C, at, bb84_patterns, events, files_of
from program_runs import refused, run, run_apart
from qkd_sim.events import Events
from qkd_sim.packets import Type2, Type3
from qkd_sim.programs.chopper import main

EVENTS = SET_A / "lec" / "events.raw"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("t2", "t3"):
        (tmp_path / name).mkdir()
    return tmp_path / "t2", tmp_path / "t3"


def same_files(ours: Path, theirs: Path) -> bool:
    return {p.name: p.read_bytes() for p in files_of(ours)} == {
        p.name: p.read_bytes() for p in files_of(theirs)
    }


def test_set_a_is_chopped_to_the_files_and_the_log_of_the_c_program(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    t2, t3 = folders
    log = tmp_path / "log"
    run(main, "-i", EVENTS, "-D", t2, "-d", t3, "-l", log, "-V", "3")
    assert same_files(t2, SET_A / "lec" / "t2")
    assert same_files(t3, SET_A / "lec" / "t3")
    assert log.read_bytes() == (SET_A / "logs" / "chopper_V3.log").read_bytes()
    assert stat.S_IMODE(next(t3.iterdir()).stat().st_mode) == 0o600


def test_it_reads_standard_input_and_logs_to_standard_output(folders: tuple[Path, Path]) -> None:
    t2, t3 = folders
    ended = run_apart(
        "-m", "qkd_sim.programs.chopper", "-D", t2, "-d", t3, "-V", "3", stdin=EVENTS.read_bytes()
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == (SET_A / "logs" / "chopper_V3.log").read_bytes()
    assert same_files(t2, SET_A / "lec" / "t2")


def test_set_c_is_chopped_with_the_width_that_adapts(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = []
    for path in files_of(SET_C / "t2"):
        type2, type3 = Type2.read(path), Type3.read(SET_C / "t3" / path.name)
        times = type2.offsets_ticks + at(type2.epoch.number, 0)
        parts.append(Events(times, bb84_patterns(type2, type3)))
    Events.concatenate(parts).write(tmp_path / "events")
    t2, t3 = folders
    run(main, "-i", tmp_path / "events", "-D", t2, "-d", t3, "-V3", "-Q2", "--keep-last", "-F")
    assert same_files(t2, SET_C / "t2")
    assert same_files(t3, SET_C / "t3")
    assert capsys.readouterr().out == (SET_C / "logs" / "chopper_V3.log").read_text()


def test_streams_hold_the_packets_one_behind_the_other(tmp_path: Path) -> None:
    run(main, "-i", EVENTS, "-O", tmp_path / "2", "-o", tmp_path / "3", "-V-1")
    for name in ("2", "3"):
        folder = SET_A / "lec" / f"t{name}"
        assert (tmp_path / name).read_bytes() == b"".join(p.read_bytes() for p in files_of(folder))


def test_a_pipe_takes_packets_while_events_still_come(tmp_path: Path) -> None:
    raw, sent, kept = (tmp_path / name for name in ("raw", "sent", "kept"))
    os.mkfifo(raw)
    os.mkfifo(sent)
    arguments = (main, "-i", raw, "-O", sent, "-o", kept, "-V-1")
    work = threading.Thread(target=run, args=arguments, daemon=True)
    work.start()
    with raw.open("wb", buffering=0) as end, sent.open("rb", buffering=0) as stream:
        end.write(events([at(5, 7), at(6, 9)]).pack())
        first = stream.read(1000)
        assert [packet.epoch.number for packet in Type2.unpack_stream(first, "pipe")] == [5]
        end.write(events([at(7, 1)]).pack())
        assert Type2.unpack(stream.read(1000), "pipe").epoch.number == 6
    work.join(timeout=30)
    assert not work.is_alive()


def test_universal_epochs_carry_their_own_tag(folders: tuple[Path, Path]) -> None:
    t2, t3 = folders
    run(main, "-i", EVENTS, "-D", t2, "-d", t3, "-U", "-V-1")
    names = [path.name for path in files_of(t2)]
    assert len(names) == 18
    for name in names:
        type2 = Type2.read(t2 / name)
        assert type2.is_universal
        assert type2.epoch.number % (1 << 17) in range(0x4F86, 0x4F98)


def test_first_events_are_skipped_by_the_thousand(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debug = tmp_path / "debug"
    t2, t3 = folders
    run(main, "-i", EVENTS, "-D", t2, "-d", t3, "-V1", "-y", "9", "--keep-last", "-e", debug)
    n_entries = [int(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()]
    assert sum(n_entries) == 10_000 - 9 * 1024
    assert debug.read_text().splitlines()[0].split("\t")[1:] == ["ignored", str(9 * 1024)]


@pytest.mark.parametrize(("options", "n_columns"), [(["-4"], 6), (["-6"], 8), ([], 6)])
def test_the_log_counts_four_or_six_detectors(
    options: list[str],
    n_columns: int,
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    t2, t3 = folders
    run(main, "-i", EVENTS, "-D", t2, "-d", t3, "-V", "4", *options)
    lines = capsys.readouterr().out.splitlines()
    assert {len(line.split("\t")) for line in lines} == {n_columns}


def test_what_a_user_gets_wrong_is_one_line(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t2, t3 = folders
    raw = tmp_path / "raw"

    def say(*more: str | Path) -> str:
        return refused(main, capsys, "-i", raw, "-D", t2, "-d", t3, *more)

    assert say() == f"chopper: {raw}: No such file or directory"
    raw.write_bytes(bytes(13))
    assert say() == f"chopper: {raw}: byte 8: the last event is cut off: 5 of 8 bytes"
    raw.write_bytes(b"\xff" * 16)
    assert say().startswith(f"chopper: {raw}: byte 0: an event has bits 14 to 8 set")
    events([at(5, 1)] * 3 + [at(9, i) for i in range(9)]).write(raw)
    assert say().startswith(f"chopper: {raw}: byte 64: event 8 is the 6th that lies more than")
    events([at(5, 1), at(6, 1)]).write(raw)
    assert say("-p", "9") == "chopper: there is no protocol 9; there are 0 to 5"
    assert say("-p", "0", "-q", "30").startswith("chopper: width is 30 bits; with protocol 0")
    missing = tmp_path / "missing"
    said = refused(main, capsys, "-i", raw, "-D", missing, "-d", t3)
    assert said == f"chopper: {missing / '00000005'}: cannot be written: No such file or directory"
    assert list(t2.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["-D", "a"],
        ["-D", "a", "-O", "b", "-d", "c"],
        ["-D", "a", "-d", "b", "-q", "3"],
        ["-D", "a", "-d", "b", "-Q", "-1"],
        ["-D", "a", "-d", "b", "-U", "-L"],
        ["-D", "a", "-d", "b", "-V", "high"],
        ["-D", "a", "-d", "b", "--verb", "1"],
    ],
)
def test_wrong_options_end_with_code_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(main, capsys, *wrong, code=2).startswith("chopper: error: ")


def test_an_empty_stream_leaves_no_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "raw").touch()
    run(main, "-i", tmp_path / "raw", "-D", folders[0], "-d", folders[1], "--keep-last")
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
