"""qkd_sim.programs.run: the whole link as a program: reports, errors, repeatable, stoppable."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from kme.epochs.finalkey import read_final_key
from kme.epochs.qkde import StageReport
from kme.ids import Epoch
from link_runs import FAINT, SMALL, STAGES, LinkRun, digests, parties_about, write_scenario
from program_runs import refused, run
from qkd_sim.programs.run import main

SOON_S = 20.0
"""Much longer than anything here takes to stop, much shorter than what it is stopped from."""


def wait_for(condition: Callable[[], object], timeout_s: float = SOON_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.02)


class Running:
    """The program as a process, its reports one by one."""

    def __init__(self, work: Path, *options: str | Path) -> None:
        command = [sys.executable, "-m", "qkd_sim", "run", "--work", str(work), "--reports"]
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.work = work

    def until(self, stage: str) -> StageReport:
        """Read reports until that of a stage."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            report = StageReport.from_line(line)
            if report.stage == stage:
                return report
        pytest.fail(f"the program ended: {self.errors()}")

    def until_errcd_is_at_work(self) -> None:
        self.until("splicer")
        wait_for(lambda: len(list(parties_about(self.work))) == 2)

    def end(self) -> tuple[int, float]:
        """Wait for the end; return exit code and how long that took."""
        begins_s = time.monotonic()
        return self.process.wait(timeout=SOON_S), time.monotonic() - begins_s

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass


def used_last(work: Path) -> int:
    return Epoch.from_file_name((work / "last-epoch").read_text().strip()).number


# Once


def test_the_same_seed_gives_the_same_bytes_in_every_file_and_reports_for_programs(
    finished_run: LinkRun, tmp_path: Path
) -> None:
    work = tmp_path / "another place"
    scenario = write_scenario(tmp_path, SMALL)
    with Running(work, "--scenario", scenario, "--seed", "7") as program:
        output, errors = program.process.communicate(timeout=60)
        assert program.process.returncode == 0, errors
    assert errors == ""
    reports = [StageReport.from_line(line) for line in output.splitlines()]
    assert [(report.stage, report.facts) for report in reports] == [
        (report.stage, report.facts) for report in finished_run.reports
    ]
    assert digests(work) == digests(finished_run.work)
    # Raw events; six kinds of packets, for two epochs each; errcd's notes; final keys.
    assert len(digests(work)) == 2 + 6 * 2 + 2 + 2


def test_another_seed_gives_other_files_and_words_for_people(
    finished_run: LinkRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    scenario = write_scenario(tmp_path, FAINT)
    run(main, "--work", work, "--scenario", scenario, "--seed", "8")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert re.fullmatch(r"errcd +\d+\.\d\d s  blocks 1, .*, final_bits \d+, .*", lines[-1])
    mine, other = digests(work), digests(finished_run.work)
    assert not set(mine.values()) & set(other.values())
    assert not {Path(name).name for name in mine if "final" in name} & {
        Path(name).name for name in other
    }
    # Nothing is left to be taken for a new run's.
    said = refused(main, capsys, "--work", work, "--scenario", scenario)
    assert said == f"qkd-sim run: esim: {work}: holds an earlier run; name an empty folder"


# What is refused


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[source\n", "not TOML"),
        ("[source]\npair_rate_khz = 1\n", "[source] pair_rate_khz is unknown (did you mean pair"),
        ("[source]\npair_rate_hz = 'fast'\n", "source.pair_rate_hz must be a number"),
        ("[source]\npair_rate_hz = -1\n", "[source] pair_rate_hz is -1, must be in"),
        ("[source]\npair_rate_hz = 1\n", "run is missing"),
        ("[laser]\n", "laser is unknown"),
    ],
)
def test_a_bad_scenario_is_one_line_with_file_and_field_and_for_programs_with_the_stage(
    scenario: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    if scenario is not None:
        path.write_text(scenario)
    work = tmp_path / "work"
    said = refused(main, capsys, "--work", work, "--scenario", path)
    assert said.startswith(f"qkd-sim run: {path}: {words}")
    with pytest.raises(SystemExit):
        run(main, "--work", work, "--scenario", path, "--reports")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == said.replace("qkd-sim run: ", "esim: ")
    assert not work.exists()


def test_a_stage_s_error_is_the_last_line_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = write_scenario(tmp_path, FAINT)
    work = tmp_path / "work"
    (work / "lec").mkdir(parents=True)
    (work / "lec" / "t3").touch()
    with pytest.raises(SystemExit) as ended:
        run(main, "--work", work, "--scenario", scenario, "--seed", "1", "--reports")
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"chopper: {work / 'lec' / 't3'}: File exists"
    assert [json.loads(line)["stage"] for line in said.out.splitlines()] == ["esim", "chopper2"]


def test_keys_for_use_take_no_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--work", tmp_path / "work", "--continuous", "--seed", "1")
    assert "--continuous takes no --seed" in refused(main, capsys, *options)
    with pytest.raises(SystemExit):
        run(main, *options, "--reports")
    assert capsys.readouterr().err.splitlines()[-1].startswith("link: --continuous takes no --seed")


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "x"])
def test_a_seed_out_of_range_is_refused(
    seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--seed" in refused(main, capsys, "--work", tmp_path, f"--seed={seed}", code=2)


@pytest.mark.parametrize("option", ["--work", "--hec-final", "--lec-final"])
def test_a_folder_that_cannot_be_made_is_said(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(main, capsys, "--work", tmp_path / "work", option, "/dev/null/folder")
    assert said == "qkd-sim run: /dev/null/folder: Not a directory"


def test_a_disk_that_takes_no_more_is_said_by_its_stage(tmp_path: Path) -> None:
    scenario = write_scenario(tmp_path, FAINT)
    limited = f'ulimit -f 200; exec {shutil.which("env")} "$@"'
    command = [sys.executable, "-m", "qkd_sim", "run", "--reports", "--work", tmp_path / "work"]
    done = subprocess.run(
        ["sh", "-c", limited, "sh", *map(str, command), "--scenario", str(scenario)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("esim: ")
    assert last.endswith("cannot be written: File too large")
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".partial")]


# Being stopped


@pytest.mark.parametrize("way", ["SIGTERM", "input"])
def test_a_single_run_stops_at_once_in_the_middle_of_a_stage(way: str, tmp_path: Path) -> None:
    path = write_scenario(tmp_path, FAINT)
    path.write_text(path.read_text().replace("duration_s = 1.2", "duration_s = 1e6"))
    with Running(tmp_path / "work", "--scenario", path, "--stop-with-input") as program:
        wait_for(lambda: list(program.work.rglob(".partial-*")))
        if way == "input":
            assert program.process.stdin is not None
            program.process.stdin.close()
        else:
            program.process.send_signal(signal.Signals[way])
        code, lasted_s = program.end()
        assert code == 1
        # within a second or two; the bound allows for a busy machine
        assert lasted_s < 8
        assert program.errors().splitlines()[-1].startswith("link: stopped in the middle")
        assert not list(program.work.rglob("*events.raw"))


def test_a_continuous_link_that_is_killed_leaves_no_orphan_no_sifted_key_and_no_epoch_to_use_again(
    tmp_path: Path,
) -> None:
    scenario = write_scenario(tmp_path, FAINT)
    work = tmp_path / "a link"
    final = tmp_path / "a", tmp_path / "b"
    folders = ("--hec-final", final[0], "--lec-final", final[1])
    options = ("--continuous", "--stop-with-input", "--scenario", scenario, *folders)
    with Running(work, *options) as link:
        link.until_errcd_is_at_work()
        link.process.kill()
        link.end()
        wait_for(lambda: not list(parties_about(work)))
    lost = used_last(work)
    assert list(work.glob("stretch/hec/rawkey/*"))

    with Running(work, *options) as link:
        report = link.until("errcd")
        first = used_last(work)
        assert first > lost
        link.until_errcd_is_at_work()
        second = used_last(work)
        assert second > first
        # Of sifted keys there are those of the stretch at hand alone.
        assert all(
            first < Epoch.from_file_name(path.name).number <= second
            for path in work.glob("stretch/?ec/rawkey/*")
        )
        assert link.process.stdin is not None
        link.process.stdin.close()
        code, lasted_s = link.end()
        assert (code, link.errors()) == (0, "")
        assert lasted_s < 8
    assert not list(parties_about(work))
    assert sorted(path.name for path in work.iterdir()) == ["last-epoch", "last-epoch.lock"]
    hec, lec = ([read_final_key(path) for path in sorted(side.iterdir())] for side in final)
    assert hec[0] == lec[0]
    assert lost < hec[0].start_epoch.number <= first
    assert hec[0].n_bits == report.facts["final_bits"]


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("scenario", "work", "hec-final", "lec-final", "seed", "continuous", "reports"):
        assert f"--{option}" in said
