"""rounds - a link that runs on: stretch after stretch, in step with the clock on the wall.

No epoch is used twice, also not after a crash or with a clock that went back:
the last epoch of a stretch is written down before the stretch begins.
"""

import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.epochs.files import write_whole
from kme.epochs.qkde import StageReport
from kme.errors import StageError
from kme.ids import Epoch
from kme.units import EPOCH_SECONDS
from qkd_sim.chain import Chain, Side, Stretch, whole_epochs
from qkd_sim.params import Scenario

MAX_WAITING_FILES: Final = 64
"""The link pauses while a side has so many final keys that nobody took in."""

_STATE_FILE: Final = "last-epoch"
_LONGEST_LOOK_S: Final = 0.25


class Rounds:
    """A running link.

    Parameters
    ----------
    scenario
        What each stretch simulates.
    work
        Folder for the stretch at hand, emptied after each, and for the state.
    final
        Where final keys go: the high-count side's folder, then the other's.
    clock
        The wall's.
    """

    def __init__(
        self, scenario: Scenario, work: Path, final: tuple[Path, Path], clock: Clock
    ) -> None:
        self._scenario = scenario
        self._work = work
        self._final = final
        self._clock = clock

    def run(self, report: Callable[[StageReport], None], stop: threading.Event) -> None:
        """Go on until `stop`.

        Raises
        ------
        StageError
            If a stage fails otherwise than that a block was refused.
        """
        while not stop.is_set():
            if self._is_full():
                stop.wait(_LONGEST_LOOK_S)
                continue
            start = self.next_start()
            self._one(start, report)
            self._wait_until(start.number + whole_epochs(self._scenario), stop)

    def next_start(self) -> Epoch:
        """Return the epoch with which the next stretch begins, and use it and its followers up."""
        state = self._work / _STATE_FILE
        start = Epoch.at_time(self._clock.now_s())
        if state.exists():
            start = max(start, Epoch(Epoch.from_file_name(state.read_text().strip()).number + 1))
        last = Epoch(start.number + whole_epochs(self._scenario) - 1)
        write_whole(state, f"{last}\n".encode())
        return start

    def _one(self, start: Epoch, report: Callable[[StageReport], None]) -> None:
        """Do one stretch in a folder that goes afterwards: its sifted keys are secrets too."""
        folder = self._work / "stretch"
        shutil.rmtree(folder, ignore_errors=True)
        hec, lec = (
            Side(folder / name, final)
            for name, final in zip(("hec", "lec"), self._final, strict=True)
        )
        try:
            Chain(hec, lec, report).run(Stretch(self._scenario, start, secrets.randbits(63)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_full(self) -> bool:
        """Whether a side's final keys pile up."""
        waiting = (sum(1 for _ in folder.glob("????????")) for folder in self._final)
        return max(waiting) >= MAX_WAITING_FILES

    def _wait_until(self, epoch_number: int, stop: threading.Event) -> None:
        """Wait until the clock on the wall has come to an epoch."""
        while not stop.is_set():
            left_s = epoch_number * EPOCH_SECONDS - self._clock.now_s()
            if left_s <= 0:
                return
            stop.wait(min(left_s, _LONGEST_LOOK_S))


def single(
    scenario: Scenario,
    work: Path,
    final: tuple[Path, Path],
    seed: int | None,
    clock: Clock,
) -> tuple[Side, Side, Stretch]:
    """Return the sides and the stretch of a link that runs once and keeps its files.

    Parameters
    ----------
    scenario
        What to simulate.
    work
        Folder for all files.
    final
        Where final keys go: the high-count side's folder, then the other's.
    seed
        Fixes start time, simulation and protocol randomness; None for now,
        and for real randomness.
    clock
        The wall's.

    Raises
    ------
    StageError
        If files of an earlier run lie there: they would be mixed up with new ones.
    """
    hec, lec = (
        Side(work / name, folder) for name, folder in zip(("hec", "lec"), final, strict=True)
    )
    if hec.events.exists() or lec.events.exists():
        raise StageError("esim", f"{work}: holds an earlier run; name an empty folder")
    if seed is None:
        stretch = Stretch(scenario, Epoch.at_time(clock.now_s()), secrets.randbits(63))
    else:
        stretch = Stretch(scenario, _start_of_seed(seed), seed, protocol_seed=seed)
    return hec, lec, stretch


_FIRST_SEEDED_EPOCH: Final = 0x80000000
_SEEDED_EPOCHS: Final = 0x10000000


def _start_of_seed(seed: int) -> Epoch:
    """Return the start time that belongs to a seed: an epoch long before the first real one."""
    return Epoch(_FIRST_SEEDED_EPOCH + seed * 4099 % _SEEDED_EPOCHS)
