"""rounds - a link that runs on: stretch after stretch, as fast as time goes.

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
from kme.epochs.driver import most_waiting
from kme.epochs.qkde import StageReport
from kme.epochs.used import UsedEpochs
from kme.errors import StageError
from kme.ids import Epoch
from kme.units import EPOCH_SECONDS
from qkd_sim.chain import Chain, Side, Stretch, whole_epochs
from qkd_sim.errors import InputError, StoppedError
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
        Names epochs by the wall's time, and paces stretches by the time that
        never runs back: a clock that was put right doesn't halt the link.
    """

    def __init__(
        self, scenario: Scenario, work: Path, final: tuple[Path, Path], clock: Clock
    ) -> None:
        self._scenario = scenario
        self._work = work
        self._final = final
        self._clock = clock
        self._used = UsedEpochs(work / _STATE_FILE)

    def run(self, report: Callable[[StageReport], None], stop: threading.Event) -> None:
        """Go on until `stop`, which is looked at within a stretch too.

        Raises
        ------
        StageError
            If a stage fails; also if a stretch gave no key at all.
        InputError
            If another link runs in the same folder, or it cannot be used.
        """
        with self._used.alone():
            self._forget_stretch()
            while not stop.is_set():
                if self._is_full():
                    stop.wait(_LONGEST_LOOK_S)
                    continue
                started_s = self._clock.monotonic_s()
                try:
                    self._one(report, stop)
                except StoppedError:
                    return
                lasts_s = whole_epochs(self._scenario) * EPOCH_SECONDS
                self._wait_until(started_s + lasts_s, stop)

    def next_start(self) -> Epoch:
        """Return the epoch with which the next stretch begins, and use it and its followers up.

        Raises
        ------
        InputError
            If what was used cannot be read or written.
        """
        return self._used.take(self._clock.now_s(), whole_epochs(self._scenario))

    def _one(self, report: Callable[[StageReport], None], stop: threading.Event) -> None:
        """Do one stretch in a folder that goes afterwards: its sifted keys are secrets too."""
        stretch = Stretch(self._scenario, self.next_start(), secrets.randbits(63))
        hec, lec = (
            Side(self._stretch_folder / name, final)
            for name, final in zip(("hec", "lec"), self._final, strict=True)
        )
        try:
            Chain(hec, lec, report, stop.is_set).run(stretch)
        finally:
            self._forget_stretch()

    @property
    def _stretch_folder(self) -> Path:
        return self._work / "stretch"

    def _forget_stretch(self) -> None:
        """Remove the files of a stretch, also those that a crash left behind."""
        try:
            shutil.rmtree(self._stretch_folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(
                f"{error.filename or self._stretch_folder}: cannot be removed: {error.strerror}; "
                "sifted keys lie there"
            ) from error

    def _is_full(self) -> bool:
        """Whether a side's final keys pile up."""
        return most_waiting(self._final) >= MAX_WAITING_FILES

    def _wait_until(self, monotonic_s: float, stop: threading.Event) -> None:
        """Wait until so much time is over."""
        while not stop.is_set():
            left_s = monotonic_s - self._clock.monotonic_s()
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
