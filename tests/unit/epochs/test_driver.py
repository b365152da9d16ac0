"""kme.epochs.driver: a driver's process stops when it is asked to, and with its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kme.epochs.driver import most_waiting, stop_asked

PROGRAM = """
import sys
from kme.epochs.driver import stop_asked
with stop_asked(stops_with_input=sys.argv[1] == "input") as stop:
    print("started", flush=True)
    sys.exit(0 if stop.wait(20) else 3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_asked(stops_with_input=False) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert signal.getsignal(number) == before


def _start(mode: str) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"started\n"
    return child


def test_the_end_of_input_sets_the_event_and_words_do_not() -> None:
    with _start("input") as child:
        assert child.stdin is not None
        child.stdin.write(b"words")
        child.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.stdin.close()
        assert child.wait(timeout=10) == 0


def test_input_may_end_if_nobody_asked_for_it() -> None:
    with _start("signal") as child:
        assert child.stdin is not None
        child.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.terminate()
        assert child.wait(timeout=10) == 0


def test_files_that_a_store_was_given_wait_like_others(tmp_path: Path) -> None:
    names = {
        "one": ["00000001", ".given-00000002", ".partial-00000003-ab", "aside"],
        "other": ["00000001"],
    }
    for folder, files in names.items():
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).touch()
    assert most_waiting([tmp_path / "other", tmp_path / "one"]) == 2
