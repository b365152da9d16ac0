"""getrate - the stage `qkd_sim.getrate` as a program."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from qkd_sim.programs import logs, options, streams

NAME = "getrate"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, count, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _count(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME, "Count rates: how many raw events fall into each window of time, a line for each."
    )
    streams.add_input(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="counts (default: standard output)"
    )
    parser.add_argument(
        "-t",
        "--window-ticks",
        type=options.integer(1),
        default=1 << 32,
        metavar="TICKS",
        help="length of a window in ticks of 125 ps (default: 2^32, an epoch of 0.54 s)",
    )
    parser.add_argument(
        "-n",
        "--rounds",
        type=options.integer(0),
        default=1,
        metavar="N",
        help="end after N windows; 0: when the events end (default: 1)",
    )
    split = parser.add_mutually_exclusive_group()
    for letter, word, number in (("-s", "four", 4), ("-6", "six", 6), ("-8", "eight", 8)):
        split.add_argument(
            letter,
            f"--{word}-detectors",
            action="store_const",
            dest="n_detectors",
            const=number,
            default=0,
            help=f"also count each of {word} detectors",
        )
    parser.add_argument(
        "-c",
        "--with-coincidences",
        action="store_true",
        help="let a coincidence count for each detector in it (default: for none)",
    )
    return parser


def _count(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import events, getrate  # noqa: PLC0415 - numpy only when there is work
    from qkd_sim.errors import InputError  # noqa: PLC0415

    name = arguments.input or "standard input"
    n_lines = 0
    with (
        streams.open_input(arguments.input) as stream,
        logs.file_or_screen(arguments.output) as output,
    ):
        windows = getrate.count_windows(events.read_chunks(stream, name), arguments.window_ticks)
        for counts in itertools.islice(windows, arguments.rounds or None):
            columns = getrate.rate_columns(
                counts, arguments.n_detectors, with_coincidences=arguments.with_coincidences
            )
            output.line(" ".join(map(str, columns)))
            n_lines += 1
    if n_lines < arguments.rounds:
        raise InputError(f"{name}: the events end after {n_lines} of {arguments.rounds} windows")


if __name__ == "__main__":
    main()
