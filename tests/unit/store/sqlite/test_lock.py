"""One process per store."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kme.errors import SettingsError
from kme.store.sqlite.lock import StoreLock

HOLDER = """
import sys
from pathlib import Path
from kme.store.sqlite.lock import StoreLock
lock = StoreLock.take(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_another_process_is_refused_by_pid_and_path_until_the_first_is_killed(
    tmp_path: Path,
) -> None:
    store = tmp_path / "kme.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(SettingsError) as caught:
            StoreLock.take(store)
        assert str(caught.value) == f"{store}: process {holder.pid} uses this store: stop it first"
        holder.kill()
    StoreLock.take(store).release()


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    lock = StoreLock.take(tmp_path / "kme.db")
    with pytest.raises(SettingsError, match=f"process {os.getpid()} uses"):
        StoreLock.take(tmp_path / "kme.db")
    lock.release()
    lock.release()
    StoreLock.take(tmp_path / "kme.db").release()


def test_a_holder_that_left_no_pid_is_still_a_holder(tmp_path: Path) -> None:
    with (tmp_path / "kme.db.lock").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match=r"process \(unknown\) uses"):
            StoreLock.take(tmp_path / "kme.db")


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none/kme\.db\.lock: cannot be opened"):
        StoreLock.take(tmp_path / "none" / "kme.db")


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(SettingsError, match="cannot be locked: No locks available"):
        StoreLock.take(tmp_path / "kme.db")
