from pathlib import Path

import pytest

from photon_files import SET_A, events
from program_runs import refused, run, run_apart
from qkd_sim.programs.getrate import main


@pytest.mark.parametrize("side", ["hec", "lec"])
def test_the_rates_of_set_a_are_those_of_the_c_program(
    side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(main, "-i", SET_A / side / "events.raw", "-n", "16")
    assert capsys.readouterr().out == (SET_A / "logs" / f"getrate_{side}.log").read_text()


def test_it_reads_standard_input(tmp_path: Path) -> None:
    data = (SET_A / "hec" / "events.raw").read_bytes()
    ended = run_apart("-m", "qkd_sim.programs.getrate", stdin=data)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"577\n", b"")


def test_columns_and_windows_are_as_asked_for(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    events([0, 1, 2, 3, 20, 21], [1, 3, 8, 0, 4, 1]).write(raw)
    run(main, "-i", raw, "-o", out, "-t", "10", "-n", "0", "-s", "-c")
    assert out.read_text() == "2 1 1 0 1\n1 0 0 1 0\n"
    run(main, "-i", raw, "-o", out, "-t", "0xa", "-n", "1", "-8")
    assert out.read_text() == "2 0 0 0 1 1 0 0 0\n"


def test_events_that_end_too_early_are_an_error_after_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    events([0, 5, 11]).write(raw)
    with pytest.raises(SystemExit):
        run(main, "-i", raw, "-t", "10", "-n", "2")
    said = capsys.readouterr()
    assert said.out == "1\n"
    assert said.err == f"getrate: {raw}: the events end after 1 of 2 windows\n"


def test_what_a_user_gets_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(9))
    said = refused(main, capsys, "-i", raw)
    assert said == f"getrate: {raw}: byte 8: the last event is cut off: 1 of 8 bytes"
    events([]).write(raw)
    assert (
        refused(main, capsys, "-i", raw) == f"getrate: {raw}: the events end after 0 of 1 windows"
    )
    said = refused(main, capsys, "-t", "0", code=2)
    assert said == "getrate: error: argument -t/--window-ticks: 0 is not 1 or more"
