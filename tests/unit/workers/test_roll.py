"""Whoever dies is missed, whoever works is not."""

import os
import signal
from pathlib import Path

import pytest

from kme.errors import SettingsError
from kme.workers.roll import Roll


def test_whoever_works_or_ended_properly_is_not_dead(tmp_path: Path) -> None:
    roll = Roll(tmp_path)
    assert roll.dead() == []
    with roll.present("worker-a"):
        assert Roll(tmp_path).dead() == []
    assert roll.dead() == []


def test_whoever_is_killed_is_dead_until_struck(tmp_path: Path) -> None:
    roll = Roll(tmp_path)
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        with roll.present("worker-a"):
            os.write(tells, b"1")
            signal.pause()
        os._exit(1)
    os.read(told, 1)
    assert roll.dead() == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(told)
    os.close(tells)
    assert roll.dead() == ["worker-a"]
    roll.strike("worker-a")
    assert roll.dead() == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="gone"), Roll(tmp_path / "gone").present("worker-a"):
        pass


def test_the_roll_names_whoever_works_and_whoever_was_killed(tmp_path: Path) -> None:
    roll = Roll(tmp_path)
    assert roll.names() == []
    with roll.present("worker-b"):
        (tmp_path / "workers" / "worker-a").touch()
        assert roll.names() == ["worker-a", "worker-b"]
    assert roll.names() == ["worker-a"]
