"""photon_files - files of the C programs and made-up event streams, for the simulator's tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from kme.errors import EpochFileError
from qkd_sim.events import Events
from qkd_sim.packets import Type2, Type3

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "qcrypto"
SET_A: Final = VECTORS / "A_guardian_rates"
SET_C: Final = VECTORS / "C_adaptive_t2"
SET_E: Final = VECTORS / "E_ec_traces"

Result = TypeVar("Result")

EPOCH_TICKS: Final = 1 << 32


def read_or_refuse(read: Callable[[], Result]) -> Result | EpochFileError:
    """Return what a reader makes of its input, or the one error that it may raise."""
    try:
        return read()
    except EpochFileError as error:
        return error


def files_of(folder: Path) -> list[Path]:
    """Return a folder's epoch files in order; a missing folder fails the test."""
    found = sorted(folder.iterdir())
    assert found, f"no files in {folder}"
    return found


def events(times_ticks: list[int], patterns: list[int] | int = 1) -> Events:
    """Return events at these times, all of one pattern unless told otherwise."""
    each = [patterns] * len(times_ticks) if isinstance(patterns, int) else patterns
    return Events(np.array(times_ticks, np.int64), np.array(each, np.uint8))


def at(epoch: int, offset_ticks: int) -> int:
    """Return the recorded time of an event in this (raw) epoch."""
    return epoch << 32 | offset_ticks


def random_events(seed: int, n_events: int, n_epochs: int, first_epoch: int = 100) -> Events:
    """Return events in order, spread over some epochs, of all sixteen patterns."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, n_epochs * EPOCH_TICKS, n_events)) + first_epoch * EPOCH_TICKS
    return Events(times % (1 << 49), rng.integers(0, 16, n_events).astype(np.uint8))


def bb84_patterns(type2: Type2, type3: Type3) -> NDArray[np.uint8]:
    """Return the detector that a basis and a bit stand for in protocol 1."""
    detector_of = np.array([[1, 4], [2, 8]], np.uint8)
    return detector_of[type2.bases, type3.values]
