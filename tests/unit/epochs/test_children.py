"""kme.epochs.children: children are stopped, and say why they ended; links keep their errors."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from kme.epochs import children
from kme.epochs.children import Child, link_reports, stop_child
from kme.epochs.qkde import LinkJob, StageReport
from kme.errors import SettingsError, StageError

REPORT = StageReport("pfind", 1.5, {"offset_ns": 7321.4})


def child_of(program: str, folder: Path, *arguments: str) -> Child:
    """Return a child that runs a line of Python."""
    command = [sys.executable, "-S", "-E", "-c", program, *arguments]
    return Child("child", command, folder / "child.log")


def is_alive(pid: int) -> bool:
    """Whether a process of ours runs, or has left a body behind."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.02)


# Children


def test_a_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "STOP_TIMEOUT_S", 0.3)
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\ntime.sleep(60)\n"
    )

    async def main() -> int | None:
        process = await child_of(program, tmp_path).start(wants_output=True)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"deaf\n"
        await stop_child(process)
        return process.returncode

    assert asyncio.run(main()) == -signal.SIGKILL
    assert "did not stop in time" in caplog.text


def test_a_child_that_listens_is_not_killed_and_a_dead_one_is_left_alone(tmp_path: Path) -> None:
    async def main() -> tuple[int | None, int | None]:
        child = child_of("import time; time.sleep(60)", tmp_path)
        process = await child.start()
        await stop_child(process)
        first = process.returncode
        await stop_child(process)
        return first, process.returncode

    assert asyncio.run(main()) == (-signal.SIGTERM, -signal.SIGTERM)


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    child = "import sys, pathlib; sys.stdin.read(); pathlib.Path(sys.argv[1]).touch()"
    parent = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom kme.epochs.children import Child\n"
        "async def main():\n"
        f"    command = [sys.executable, '-c', {child!r}, {str(ended)!r}]\n"
        f"    await Child('child', command, Path({str(tmp_path / 'log')!r})).start()\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        assert not ended.exists()
        process.kill()
        process.wait(timeout=20)
        wait_for(ended.exists)


def test_a_program_or_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    missing = Child("kme-a", [str(tmp_path / "no-program")], tmp_path / "log")
    with pytest.raises(StageError, match=r"kme-a: cannot be started: .*no-program: No such file"):
        asyncio.run(missing.start())
    logless = Child("kme-b", [sys.executable], tmp_path / "nowhere" / "log")
    with pytest.raises(StageError, match=r"kme-b: cannot be started: .*nowhere/log: No such file"):
        asyncio.run(logless.start())


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (b"", ""),
        (b"\n\n", ""),
        (b"first\nlast\n\n", "last"),
        (b"x" * 10_000 + b"\nlast", "last"),
        (b"a [31mred\x1b[0m word", "a [31mred?[0m word"),
        (b"\xff\xfe\x00\x01", "\N{REPLACEMENT CHARACTER}" * 2 + "??"),
        (b"y" * 10_000, "y" * 500),
    ],
)
def test_last_words_are_one_short_line_that_can_be_shown(
    tmp_path: Path, log: bytes, words: str
) -> None:
    child = child_of("", tmp_path)
    child.log.write_bytes(log)
    assert child.last_words() == words


def test_without_a_log_there_are_no_last_words(tmp_path: Path) -> None:
    child = child_of("", tmp_path)
    assert (child.last_words(), child.logged_bytes()) == ("", 0)


# Links


class ScriptedDriver:
    """A driver that is a few lines of Python."""

    def __init__(self, program: str) -> None:
        self._program = program

    def command(self, job: LinkJob) -> list[str]:
        return [sys.executable, "-S", "-E", "-c", self._program, str(job.work)]


def job_in(folder: Path) -> LinkJob:
    return LinkJob((folder / "a", folder / "b"), folder)


def reports_of(driver: str, job: LinkJob, log: Path) -> list[StageReport]:
    async def main() -> list[StageReport]:
        return [report async for report in link_reports(driver, job, log)]

    return asyncio.run(main())


def scripted(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[StageReport]:
    monkeypatch.setattr(children, "find_driver", lambda _name: ScriptedDriver(program))
    return reports_of("scripted", job_in(folder), folder / "link.log")


def test_a_driver_s_reports_come_one_by_one(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    for folder in job.final_keys:
        folder.mkdir()
    [report] = reports_of("random", job, tmp_path / "link.log")
    assert report.stage == "random"
    assert (job.final_keys[1] / str(report.facts["epoch"])).exists()


def test_the_simulated_link_s_error_keeps_its_stage_and_its_message(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("[source]\npair_rate_khz = 1\n")
    job = LinkJob((tmp_path / "a", tmp_path / "b"), tmp_path / "work", scenario)
    with pytest.raises(StageError) as failed:
        reports_of("sim", job, tmp_path / "link.log")
    assert failed.value.stage == "esim"
    assert failed.value.message == (
        f"{scenario}: [source] pair_rate_khz is unknown (did you mean pair_rate_hz?)"
    )


def test_reports_before_an_error_are_given_and_old_words_are_not_mistaken_for_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.log").write_text("pfind: the error of an earlier run\n")
    program = (
        f"import os, signal\nprint({REPORT.to_line()!r}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setattr(children, "find_driver", lambda _name: ScriptedDriver(program))
    seen: list[StageReport] = []

    async def main() -> None:
        async for report in link_reports("scripted", job_in(tmp_path), tmp_path / "link.log"):
            seen.append(report)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(StageError) as failed:
        asyncio.run(main())
    assert seen == [REPORT]
    assert str(failed.value) == "link: the driver ended (killed by signal 9)"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("errcd: too many errors: try less", "errcd: too many errors: try less"),
        ("a warning\npfind: no peak\n", "pfind: no peak"),
        ("Traceback\nValueError: x", "link: the driver ended (code 3): ValueError: x"),
        ("no colon", "link: the driver ended (code 3): no colon"),
        ("", "link: the driver ended (code 3)"),
    ],
)
def test_what_a_driver_says_last_is_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: str
) -> None:
    with pytest.raises(StageError) as failed:
        scripted(f"import sys; sys.stderr.write({said!r}); sys.exit(3)", tmp_path, monkeypatch)
    assert str(failed.value) == error


@pytest.mark.parametrize(
    "output", ["b'hello'", r"b'\xff\xfe\n'", "b'{}'", "b'[' * 30000", "b'x' * 300000"]
)
def test_a_driver_that_writes_garbage_is_stopped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    program = (
        "import os, sys, pathlib, time\n"
        "(pathlib.Path(sys.argv[1]) / 'pid').write_text(str(os.getpid()))\n"
        f"sys.stdout.buffer.write({output} + b'\\n')\nsys.stdout.flush()\ntime.sleep(60)\n"
    )
    with pytest.raises(StageError, match=r"^link: the driver wrote no report: ") as failed:
        scripted(program, tmp_path, monkeypatch)
    assert len(str(failed.value)) < 400
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_link_that_nobody_waits_for_any_more_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, sys, pathlib, time\n"
        "(pathlib.Path(sys.argv[1]) / 'pid').write_text(str(os.getpid()))\n"
        f"print({REPORT.to_line()!r}, flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(children, "find_driver", lambda _name: ScriptedDriver(program))
    came = asyncio.Event()

    async def follow() -> NoReturn:
        async for _ in link_reports("scripted", job_in(tmp_path), tmp_path / "link.log"):
            came.set()
        pytest.fail("the link ended by itself")

    async def main() -> None:
        task = asyncio.create_task(follow())
        await asyncio.wait_for(came.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_an_unknown_driver_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no QKD driver is called 'laser'"):
        reports_of("laser", job_in(tmp_path), tmp_path / "link.log")
    assert not (tmp_path / "link.log").exists()
