"""The qkd service as a program, with the real simulated link: photons to files for both KMEs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kme.epochs.finalkey import read_final_key
from link_runs import FAINT, parties_about, write_scenario

PROGRAM = Path(__file__).parents[2] / "services" / "qkd" / "qkd.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name in ("in", "out", "work"):
        (tmp_path / name).mkdir()
    return {
        "PATH": os.environ["PATH"],
        "KME_ID": "kme-1",
        "KME_LINKS": "kme-2/qkd-1",
        "KME_WORK": str(tmp_path / "work"),
        "KME_EPOCHS_IN": str(tmp_path / "in"),
        "KME_EPOCHS_OUT": str(tmp_path / "out"),
        "KME_QKD__SCENARIO": str(write_scenario(tmp_path, FAINT)),
        "KME_QKD__ROUNDS": "2",
        "KME_QKD__MIN_BITS": "1000",
    }


def files(root: Path, side: str) -> dict[str, bytes]:
    folder = root / side / "kme-2" / "qkd-1"
    return {path.name: read_final_key(path).key.reveal() for path in folder.iterdir()}


def test_a_refill_adds_key_under_later_epochs_and_leaves_no_raw_key(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    before: set[str] = set()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, PROGRAM], env=environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        keys = files(tmp_path, "in")
        assert files(tmp_path, "out") == keys
        new = keys.keys() - before
        assert len(new) >= 2
        assert not before or min(new) > max(before)
        before |= new
        assert not any(key.hex() in done.stderr for key in keys.values())
    work = tmp_path / "work" / "kme-2" / "qkd-1"
    assert {path.name for path in work.iterdir() if path.is_dir()} == set()


def test_sigterm_in_the_middle_leaves_neither_raw_key_nor_processes(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["KME_QKD__ROUNDS"] = "1000"
    work = tmp_path / "work" / "kme-2" / "qkd-1"
    process = subprocess.Popen([sys.executable, PROGRAM], env=environment, stderr=subprocess.PIPE)
    with process:
        deadline_s = time.monotonic() + 60
        while not list(parties_about(work)):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert list(parties_about(work)) == []
    assert {path.name for path in work.iterdir() if path.is_dir()} == set()
    assert files(tmp_path, "in") == files(tmp_path, "out")
