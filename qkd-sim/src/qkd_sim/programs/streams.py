"""streams - the options of both choppers about what comes in: raw events, cut into epochs."""

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qkd_sim.programs import logs, options

if TYPE_CHECKING:
    from qkd_sim.epochsplit import EpochEvents

TICKS_PER_US = 8000
READ_BUFFER_EVENTS = 1024
STANDARD_INPUT = 0


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the raw events."""
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FILE", help="raw events (default: standard input)"
    )


def add_epoch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on counting epochs and on events out of place."""
    parser.add_argument(
        "-m",
        "--max-gap-us",
        type=options.integer(0),
        default=0,
        metavar="US",
        help="ignore an event more than so many microseconds after the one before (0: never)",
    )
    counting = parser.add_mutually_exclusive_group()
    counting.add_argument(
        "-U",
        "--universal",
        action="store_true",
        help="count epochs of 0.54 s from 1970; events must be of the last hours",
    )
    counting.add_argument(
        "-L",
        "--local",
        action="store_false",
        dest="universal",
        help="count epochs as recorded, from 0 to 2^17 - 1 (default)",
    )
    parser.add_argument(
        "--keep-last",
        action="store_true",
        help="also write the epoch in which the events end (default: drop it, it may be cut off)",
    )


def add_log_options(parser: argparse.ArgumentParser, levels: str) -> None:
    """Add the options on the log, with what its levels say."""
    parser.add_argument(
        "-l", "--log", type=Path, metavar="FILE", help="append log here (default: standard output)"
    )
    parser.add_argument(
        "-V",
        "--verbosity",
        type=int,
        default=0,
        metavar="N",
        help=f"log level; {levels}; below 0 (as -V-1) nothing (default: 0)",
    )
    parser.add_argument(
        "-F", "--flush", action="store_true", help="hand over each log line at once"
    )


@contextmanager
def open_input(path: Path | None) -> Iterator[io.FileIO]:
    """Open the raw events unbuffered: a pipe's events are taken as they come."""
    if path is None:
        with io.FileIO(STANDARD_INPUT, closefd=False) as stream:
            yield stream
    else:
        with io.FileIO(path) as stream:
            yield stream


@contextmanager
def open_epochs(
    arguments: argparse.Namespace, n_skipped_events: int = 0
) -> "Iterator[Iterator[EpochEvents]]":
    """Open the raw events and cut them into epochs, as the options say."""
    from kme.clock import SystemClock  # noqa: PLC0415 - numba comes with the next line
    from qkd_sim.epochsplit import SplitRules, split_epochs  # noqa: PLC0415
    from qkd_sim.events import read_chunks  # noqa: PLC0415

    rules = SplitRules(
        clock=SystemClock() if arguments.universal else None,
        max_gap_ticks=arguments.max_gap_us * TICKS_PER_US,
        n_skipped_events=n_skipped_events,
        is_last_kept=arguments.keep_last,
    )
    name = arguments.input or "standard input"
    with open_input(arguments.input) as stream:
        yield split_epochs(read_chunks(stream, name), rules, name)


@contextmanager
def open_logs(arguments: argparse.Namespace) -> Iterator[tuple[logs.Log, logs.Log]]:
    """Open the log and the one on ignored events, as the options say."""
    with (
        logs.screen_or_file(arguments.log, arguments.verbosity, is_flushed=arguments.flush) as log,
        logs.file_or_nothing(arguments.debug_log, mode="a") as debug,
    ):
        yield log, debug
