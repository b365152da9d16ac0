"""splicer - the stage `qkd_sim.splicer` as a program."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from qkd_sim.programs import inlets, logs, options, outlets

if TYPE_CHECKING:
    from qkd_sim.packets import Type3, Type4

NAME = "splicer"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, splice, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _splice(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME, "Low-count side: type-3 results and type-4 indices to sifted key (type 3)."
    )
    inlets.add_input(parser, ("-d", "--type3-dir"), ("-i", "--type3-stream"), "type-3 packets")
    inlets.add_input(parser, ("-D", "--type4-dir"), ("-I", "--type4-stream"), "type-4 packets")
    outlets.add_output(parser, ("-f", "--key-dir"), ("-o", "--key-stream"), "sifted key")
    outlets.add_output(
        parser, ("-B", "--test-dir"), ("-b", "--test-stream"), "Bell tests", is_required=False
    )
    inlets.add_epochs(parser)
    parser.add_argument(
        "-p",
        "--protocol",
        type=options.integer(0),
        default=1,
        metavar="N",
        help="0 service, 1 BB84 (default), 4 four detectors, 5 BC",
    )
    parser.add_argument(
        "-k", "--remove-type3", action="store_true", help="delete type-3 files read"
    )
    parser.add_argument(
        "-K", "--remove-type4", action="store_true", help="delete type-4 files read"
    )
    for letter, name, what in (
        ("-l", "--log-type3", "type-3 packets read"),
        ("-L", "--log-type4", "type-4 packets read"),
        ("-m", "--log", "sifted key written"),
    ):
        parser.add_argument(
            letter, name, type=Path, metavar="FILE", help=f"a line for each of the {what}"
        )
    parser.add_argument(
        "-V",
        "--verbosity",
        type=int,
        default=0,
        metavar="N",
        help="log level; 0 epoch, 1 and number of key entries, 2 in words; below 0 nothing",
    )
    return parser


def _splice(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import splicer  # noqa: PLC0415 - numba is slow to import
    from qkd_sim.packets import Type3, Type4  # noqa: PLC0415

    results = inlets.Inlet(Type3, arguments.type3_dir, arguments.type3_stream)
    kept = inlets.Inlet(Type4, arguments.type4_dir, arguments.type4_stream)
    with ExitStack() as stack:
        key_outlet = stack.enter_context(
            outlets.open_outlet(arguments.key_dir, arguments.key_stream)
        )
        test_outlet = stack.enter_context(
            outlets.open_outlet(arguments.test_dir, arguments.test_stream)
        )
        lines = [
            stack.enter_context(logs.file_or_nothing(path, arguments.verbosity))
            for path in (arguments.log_type3, arguments.log_type4, arguments.log)
        ]
        for indices in inlets.wanted(kept, arguments):
            spliced = splicer.splice(results.take(indices.epoch), indices, arguments.protocol)
            key_outlet.put(spliced.key)
            if spliced.tests is not None:
                test_outlet.put(spliced.tests)
            _remove_read(arguments, results, kept, indices)
            for log in lines:
                log.line(splicer.log_line(spliced, arguments.verbosity))


def _remove_read(
    arguments: argparse.Namespace,
    results: "inlets.Inlet[Type3]",
    kept: "inlets.Inlet[Type4]",
    indices: "Type4",
) -> None:
    """Delete the files of an epoch that is done, where the options ask for it."""
    if arguments.remove_type3:
        results.remove(indices.epoch)
    if arguments.remove_type4:
        kept.remove(indices.epoch)


if __name__ == "__main__":
    main()
