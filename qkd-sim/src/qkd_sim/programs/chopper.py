"""chopper - the stage `qkd_sim.chopper` as a program."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qkd_sim.programs import options, outlets, streams

NAME = "chopper"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, chop, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _chop(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME,
        "Low-count side: raw events to type-2 (times, sent) and type-3 (results, kept) packets.",
    )
    streams.add_input(parser)
    outlets.add_output(parser, ("-D", "--type2-dir"), ("-O", "--type2-stream"), "type-2 packets")
    outlets.add_output(parser, ("-d", "--type3-dir"), ("-o", "--type3-stream"), "type-3 packets")
    _add_encoding(parser)
    streams.add_epoch_options(parser)
    parser.add_argument(
        "-y",
        "--skip-buffers",
        type=options.integer(0),
        default=0,
        metavar="N",
        help=f"ignore the first N times {streams.READ_BUFFER_EVENTS} events (default: 0)",
    )
    streams.add_log_options(
        parser, "0 epoch, 1 and number of entries, 2 and 3 in words, 4 counts by detector"
    )
    detectors = parser.add_mutually_exclusive_group()
    for number, word in ((4, "four"), (6, "six")):
        detectors.add_argument(
            f"-{number}",
            f"--{word}-detectors",
            action="store_const",
            dest="n_detectors",
            const=number,
            help=f"count {word} detectors in the log (default: as many as the protocol has)",
        )
    parser.add_argument(
        "-e", "--debug-log", type=Path, metavar="FILE", help="append how many events were ignored"
    )
    return parser


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    """Add the options on what is told, and in how many bits."""
    parser.add_argument(
        "-p",
        "--protocol",
        type=options.integer(0),
        default=1,
        metavar="N",
        help="0 service, 1 BB84 (default), 2 rich BB84, 3 six and 4 four detectors, 5 BC",
    )
    parser.add_argument(
        "-q",
        "--width-bits",
        type=options.integer(4, 32),
        default=17,
        metavar="BITS",
        help="bits of a short time difference, 4..32 less those of a basis (default: 17)",
    )
    parser.add_argument(
        "-Q",
        "--adaptive-filter",
        type=options.integer(0),
        default=0,
        metavar="N",
        help="let the width go 1/N of the way to the best after each epoch (default: 0, never)",
    )


def _chop(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import chopper, protocols  # noqa: PLC0415 - numba is slow to import

    encoding = chopper.Encoding(arguments.protocol, arguments.width_bits, arguments.adaptive_filter)
    n_detectors = arguments.n_detectors or protocols.protocol(arguments.protocol).n_detectors
    n_skipped = arguments.skip_buffers * streams.READ_BUFFER_EVENTS
    with (
        streams.open_epochs(arguments, n_skipped) as epochs,
        outlets.open_outlet(arguments.type2_dir, arguments.type2_stream) as type2_outlet,
        outlets.open_outlet(arguments.type3_dir, arguments.type3_stream) as type3_outlet,
        streams.open_logs(arguments) as (log, debug),
    ):
        for chopped in chopper.chop(epochs, encoding):
            type2_outlet.put(chopped.type2)
            type3_outlet.put(chopped.type3)
            log.line(chopper.log_line(chopped, arguments.verbosity, n_detectors))
            debug.line(f"{chopped.type2.epoch}\tignored\t{chopped.n_ignored}")


if __name__ == "__main__":
    main()
