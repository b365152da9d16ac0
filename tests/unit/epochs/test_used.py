"""kme.epochs.used: no epoch twice, one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.epochs.used import UsedEpochs
from kme.errors import InputError
from kme.ids import Epoch
from kme.units import EPOCH_SECONDS


@given(
    st.lists(
        st.tuples(st.floats(min_value=0, max_value=1e9), st.integers(min_value=1, max_value=100)),
        min_size=1,
        max_size=20,
    )
)
def test_no_epoch_is_taken_twice_wherever_the_clock_jumps(
    tmp_path_factory: pytest.TempPathFactory, takes: list[tuple[float, int]]
) -> None:
    state = tmp_path_factory.mktemp("used") / "last-epoch"
    taken: set[int] = set()
    for now_s, n_epochs in takes:
        # Made anew each time, as after a restart.
        start = UsedEpochs(state).take(now_s, n_epochs)
        assert start.number >= Epoch.at_time(now_s).number
        numbers = set(range(start.number, start.number + n_epochs))
        assert not numbers & taken
        taken |= numbers


def test_the_first_epoch_is_that_of_the_clock(tmp_path: Path) -> None:
    now_s = 1_700_000_000.0
    used = UsedEpochs(tmp_path / "last-epoch")
    assert used.take(now_s) == Epoch.at_time(now_s)
    assert used.take(now_s + 100 * EPOCH_SECONDS) == Epoch.at_time(now_s + 100 * EPOCH_SECONDS)


def test_what_is_taken_is_on_disk_before_it_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "last-epoch"
    used = UsedEpochs(state)
    used.take(0.0, 3)
    assert state.read_text() == "00000002\n"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"last-epoch: cannot be written: No space left"):
        used.take(0.0)
    assert state.read_text() == "00000002\n"


@pytest.mark.parametrize("content", [b"", b"\n", b"soon\n", b"0000000G", b"\xff" * 200])
def test_a_spoilt_state_is_never_taken_for_none(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "last-epoch"
    state.write_bytes(content)
    with pytest.raises(InputError, match=r"last-epoch: does not hold the last epoch") as refused:
        UsedEpochs(state).take(0.0)
    assert "\n" not in str(refused.value)
    assert state.read_bytes() == content


def test_a_state_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "last-epoch"
    state.mkdir()
    with pytest.raises(InputError, match=r"last-epoch: cannot be read: Is a directory"):
        UsedEpochs(state).take(0.0)


def test_the_end_of_epochs_is_an_error(tmp_path: Path) -> None:
    state = tmp_path / "last-epoch"
    state.write_text("ffffffff\n")
    with pytest.raises(InputError, match="is not in"):
        UsedEpochs(state).take(0.0)


def test_a_second_process_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom kme.epochs.used import UsedEpochs\n"
        "with UsedEpochs(Path(sys.argv[1])).alone():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    state = tmp_path / "last-epoch"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"process {first.pid} makes key there: stop it first"),
            UsedEpochs(state).alone(),
        ):
            pytest.fail("two processes hold the same epochs")
        first.kill()
        first.wait(timeout=20)
    with UsedEpochs(state).alone():
        assert state.with_name("last-epoch.lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"missing/last-epoch\.lock: cannot be opened: No such"),
        UsedEpochs(tmp_path / "missing" / "last-epoch").alone(),
    ):
        pytest.fail("it was locked in a folder that is not there")
