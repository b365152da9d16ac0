"""kme.supervisor: children are started again, and given up when they die too often."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from kme import supervisor
from kme.errors import StageError
from kme.pair import DEFAULT_SAES, KmePlace
from kme.supervisor import Child, Restarts, keep_running, kme_child


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


def test_a_child_that_dies_is_started_again_until_told_to_stop(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "starts = pathlib.Path(sys.argv[1])\n"
        "starts.write_text(starts.read_text() + 'x')\n"
        "n = len(starts.read_text())\n"
        "if n < 3:\n    sys.exit(f'fell over for the {n}. time')\n"
        "sys.stdin.read()\n"
    )
    starts = tmp_path / "starts"
    starts.write_text("")
    pids: list[int] = []
    deaths: list[tuple[int, str]] = []

    async def main() -> None:
        stop = asyncio.Event()

        def on_start(pid: int) -> None:
            pids.append(pid)
            if len(pids) == 3:
                stop.set()

        await keep_running(
            child_of(program, tmp_path, str(starts)),
            stop,
            on_start,
            lambda code, words: deaths.append((code, words)),
        )

    asyncio.run(main())
    assert deaths == [(1, "fell over for the 1. time"), (1, "fell over for the 2. time")]
    assert len(set(pids)) == 3
    assert not any(is_alive(pid) for pid in pids)


def test_a_child_that_dies_too_often_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    pids: list[int] = []
    deaths: list[int] = []
    child = child_of("import sys; sys.exit('kme: port 14014 is in use')", tmp_path)

    async def main() -> None:
        await keep_running(
            child, asyncio.Event(), pids.append, lambda code, _words: deaths.append(code)
        )

    with pytest.raises(StageError) as given_up:
        asyncio.run(main())
    assert str(given_up.value) == (
        f"child: died too often; its log {child.log} ends: kme: port 14014 is in use"
    )
    assert len(pids) == supervisor.MAX_RESTARTS + 1
    assert deaths == [1] * supervisor.MAX_RESTARTS


def test_restarts_are_counted_by_the_minute() -> None:
    restarts = Restarts()
    assert all(restarts.allows(10.0 * i) for i in range(5))
    assert not restarts.allows(59.0)
    patient = Restarts()
    assert all(patient.allows(12.1 * i) for i in range(1000))


def test_a_kme_s_child_is_one_that_stops_with_its_input(tmp_path: Path) -> None:
    home = next(iter(DEFAULT_SAES.values()))
    child = kme_child(KmePlace(home, 1, 2, tmp_path / home))
    assert child.command[-2:] == [str(tmp_path / f"{home}.toml"), "--stop-with-input"]
    assert child.log == tmp_path / f"{home}.log"
