"""chopper2 - the stage `qkd_sim.chopper2` as a program."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qkd_sim.programs import options, outlets, streams

NAME = "chopper2"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, package, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _package(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(NAME, "High-count side: raw events to type-1 packets, one per epoch.")
    streams.add_input(parser)
    outlets.add_output(parser, ("-D", "--type1-dir"), ("-O", "--type1-stream"), "type-1 packets")
    streams.add_epoch_options(parser)
    streams.add_log_options(
        parser, "0 epoch, 1 and number of events, 2 in words, 3 counts by detector"
    )
    parser.add_argument(
        "-4",
        "--four-detectors",
        action="store_const",
        dest="n_detectors",
        const=4,
        default=6,
        help="count four detectors in the log, coincidences included (default: six, without)",
    )
    parser.add_argument(
        "-d", "--debug-log", type=Path, metavar="FILE", help="append how many events were ignored"
    )
    return parser


def _package(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import chopper2  # noqa: PLC0415 - numba is slow to import

    with (
        streams.open_epochs(arguments) as epochs,
        outlets.open_outlet(arguments.type1_dir, arguments.type1_stream) as outlet,
        streams.open_logs(arguments) as (log, debug),
    ):
        for packaged in chopper2.package(epochs):
            outlet.put(packaged.type1)
            log.line(chopper2.log_line(packaged, arguments.verbosity, arguments.n_detectors))
            debug.line(f"{packaged.type1.epoch}\tignored\t{packaged.n_ignored}")


if __name__ == "__main__":
    main()
