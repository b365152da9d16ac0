"""random_source - a driver that feeds both KMEs equal random bits: no quantum key at all.

For people who only want two KMEs to test a client against. It needs both
folders on one host.
"""

import argparse
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.epochs.driver import most_waiting, stop_asked
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.epochs.qkde import Fact, LinkJob, StageReport
from kme.epochs.used import UsedEpochs
from kme.errors import KmeError, SettingsError
from kme.ids import Epoch
from kme.secret import Secret
from kme.units import EPOCH_SECONDS

FILE_BYTES: Final = 32 * 1024
MAX_WAITING_FILES: Final = 16
"""The source pauses while a KME has so many files to take in."""

_STATE_FILE: Final = "last-epoch"


class RandomDriver:
    """The driver ``random``."""

    def command(self, job: LinkJob) -> list[str]:
        """Return the command line of this module.

        Raises
        ------
        SettingsError
            If a seed is asked for: such bits must never be repeatable.
        """
        if job.seed is not None:
            raise SettingsError("the random source takes no seed")
        arguments = [sys.executable, "-m", "kme.epochs.random_source", "--work", str(job.work)]
        arguments += ["--stop-with-input", *(["--continuous"] if job.is_continuous else [])]
        return [*arguments, *(str(folder) for folder in job.final_keys)]


@dataclass(frozen=True, slots=True)
class RandomSource:
    """Equal random bits for two folders, one file per epoch, no epoch twice.

    Parameters
    ----------
    final_keys
        The two folders.
    state
        File that keeps the last epoch that was used.
    """

    final_keys: tuple[Path, Path]
    state: Path

    def feed(self) -> Epoch:
        """Write one final key file into each folder and return its epoch."""
        epoch = UsedEpochs(self.state).take(time.time())
        key = Secret(secrets.token_bytes(FILE_BYTES))
        for folder in self.final_keys:
            write_final_key(folder, FinalKeyFile(epoch, 1, FILE_BYTES * 8, key))
        return epoch

    def is_full(self) -> bool:
        """Whether a KME hasn't taken in yet what it was given."""
        return most_waiting(self.final_keys) >= MAX_WAITING_FILES


def main(argv: Sequence[str] | None = None) -> None:
    """Feed two folders until asked to stop, or once."""
    arguments = _parser().parse_args(argv)
    try:
        with stop_asked(stops_with_input=arguments.stop_with_input) as stop:
            _run(arguments, stop)
    except KmeError as error:
        sys.stderr.write(f"random: {error}\n")
        raise SystemExit(1) from error
    except BrokenPipeError:
        # Nobody reads the reports any more; nothing may be flushed there again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        sys.stderr.write(f"random: {error.filename or 'file'}: {error.strerror}\n")
        raise SystemExit(1) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="random_source", description=__doc__)
    parser.add_argument("final_keys", nargs=2, type=Path, help="folders of the two KMEs")
    parser.add_argument("--work", type=Path, required=True, help="folder for the source's state")
    parser.add_argument("--continuous", action="store_true", help="go on until asked to stop")
    parser.add_argument(
        "--stop-with-input", action="store_true", help="stop when standard input ends"
    )
    return parser


def _run(arguments: argparse.Namespace, stop: threading.Event) -> None:
    one, other = arguments.final_keys
    state = arguments.work / _STATE_FILE
    arguments.work.mkdir(parents=True, exist_ok=True)
    source = RandomSource((one, other), state)
    with UsedEpochs(state).alone():
        while not stop.is_set():
            if not source.is_full():
                _feed(source)
                if not arguments.continuous:
                    return
            stop.wait(EPOCH_SECONDS)


def _feed(source: RandomSource) -> None:
    """Feed once and report it."""
    started_s = time.monotonic()
    epoch = source.feed()
    facts: dict[str, Fact] = {
        "epoch": str(epoch),
        "final_bits": FILE_BYTES * 8,
        "is_quantum": False,
    }
    report = StageReport("random", time.monotonic() - started_s, facts)
    sys.stdout.write(report.to_line() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
