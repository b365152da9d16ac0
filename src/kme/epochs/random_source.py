"""random_source - a driver that feeds both KMEs equal random bits: no quantum key at all.

For people who only want two KMEs to test a client against. It needs both
folders on one host.
"""

import argparse
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.epochs.files import write_whole
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.epochs.qkde import Fact, LinkJob, StageReport
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
        arguments += [str(folder) for folder in job.final_keys]
        return [*arguments, *(["--continuous"] if job.is_continuous else [])]


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
        epoch = self._next_epoch()
        # Durable before any file of that epoch: a crash leaves a gap, never an epoch twice.
        write_whole(self.state, f"{epoch}\n".encode())
        key = Secret(secrets.token_bytes(FILE_BYTES))
        for folder in self.final_keys:
            write_final_key(folder, FinalKeyFile(epoch, 1, FILE_BYTES * 8, key))
        return epoch

    def is_full(self) -> bool:
        """Whether a KME hasn't taken in yet what it was given."""
        waiting = max(sum(1 for _ in folder.glob("????????")) for folder in self.final_keys)
        return waiting >= MAX_WAITING_FILES

    def _next_epoch(self) -> Epoch:
        now = Epoch.at_time(time.time())
        try:
            last = Epoch.from_file_name(self.state.read_text().strip())
        except FileNotFoundError:
            return now
        return max(now, Epoch(last.number + 1))


def _run(arguments: argparse.Namespace, stop: threading.Event) -> None:
    source = RandomSource(tuple(arguments.final_keys), arguments.work / _STATE_FILE)
    arguments.work.mkdir(parents=True, exist_ok=True)
    while not stop.is_set():
        if not source.is_full():
            started_s = time.monotonic()
            epoch = source.feed()
            facts: dict[str, Fact] = {
                "epoch": str(epoch),
                "final_bits": FILE_BYTES * 8,
                "is_quantum": False,
            }
            sys.stdout.write(
                StageReport("random", time.monotonic() - started_s, facts).to_line() + "\n"
            )
            sys.stdout.flush()
            if not arguments.continuous:
                return
        stop.wait(EPOCH_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    """Feed two folders until a signal asks to stop, or once."""
    parser = argparse.ArgumentParser(prog="random_source", description=__doc__)
    parser.add_argument("final_keys", nargs=2, type=Path, help="folders of the two KMEs")
    parser.add_argument("--work", type=Path, required=True, help="folder for the source's state")
    parser.add_argument("--continuous", action="store_true", help="go on until a signal")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _run(arguments, stop)
    except KmeError as error:
        sys.stderr.write(f"random: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
