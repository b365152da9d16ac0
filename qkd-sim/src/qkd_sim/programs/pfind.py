"""pfind - the stage `qkd_sim.pfind` as a program."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from qkd_sim.programs import inlets, logs, options

NAME = "pfind"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, find the offset, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _find(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME,
        "Types 1 and 2 to the time difference of the clocks (low-count side less high-count\n"
        "side, in ticks of 125 ps, at the first event); an error if none is significant.",
    )
    inlets.add_input(parser, ("-D", "--type1-dir"), ("-I", "--type1-stream"), "type-1 packets")
    inlets.add_input(parser, ("-d", "--type2-dir"), ("-i", "--type2-stream"), "type-2 packets")
    parser.add_argument(
        "-e",
        "--start-epoch",
        type=options.epoch,
        metavar="EPOCH",
        help="first epoch, decimal or 0x hexadecimal (needed with folders)",
    )
    parser.add_argument(
        "-n",
        "--epochs",
        type=options.integer(1),
        default=1,
        metavar="N",
        help="look at so many epochs of 0.54 s (default: 1)",
    )
    parser.add_argument(
        "-r",
        "--resolution-ns",
        type=options.integer(1),
        metavar="NS",
        help="round to a multiple of this power of two of nanoseconds (default: to a tick)",
    )
    parser.add_argument(
        "-q",
        "--order",
        type=options.integer(1),
        default=17,
        metavar="N",
        help="search over 2^N bins (default: 17)",
    )
    parser.add_argument(
        "-R",
        "--coarse-ns",
        type=options.integer(1),
        default=2048,
        metavar="NS",
        help="width of a bin in nanoseconds, a power of two (default: 2048)",
    )
    parser.add_argument(
        "--max-p",
        type=float,
        default=1e-6,
        metavar="P",
        help="largest probability to be due to noise that is accepted (default: 1e-6)",
    )
    parser.add_argument(
        "-k", "--remove-type2", action="store_true", help="delete type-2 files read"
    )
    parser.add_argument(
        "-K", "--remove-type1", action="store_true", help="delete type-1 files read"
    )
    parser.add_argument("-l", "--log", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "-V",
        "--verbosity",
        type=options.integer(0),
        default=0,
        metavar="N",
        help="0 offset in ticks, 1 and significances (fine, coarse), 2 in words (default: 0)",
    )
    parser.set_defaults(epoch_pipe=None)
    return parser


def _find(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import pfind  # noqa: PLC0415 - numba is slow to import
    from qkd_sim.packets import Type1, Type2  # noqa: PLC0415

    settings = pfind.PfindSettings(arguments.order, arguments.coarse_ns, arguments.max_p)
    if arguments.resolution_ns is not None:
        fine_shift = pfind.shift_ticks(arguments.resolution_ns)
    else:
        fine_shift = pfind.shift_ticks(1)
    hec_inlet = inlets.Inlet(Type1, arguments.type1_dir, arguments.type1_stream)
    lec_inlet = inlets.Inlet(Type2, arguments.type2_dir, arguments.type2_stream)
    hec = list(itertools.islice(inlets.wanted(hec_inlet, arguments), arguments.epochs))
    lec = list(itertools.islice(inlets.wanted(lec_inlet, arguments), arguments.epochs))
    found = pfind.find_offset(hec, lec, settings)
    offset_ticks = found.offset_ticks
    if arguments.resolution_ns is not None:
        offset_ticks = found.rounded_ticks(arguments.resolution_ns)
    fine = coarse = None
    if arguments.verbosity:
        times = pfind.read_streams(hec, lec)
        fine = pfind.correlate(times, settings.order, fine_shift)
        coarse = pfind.correlate(times, settings.order, pfind.shift_ticks(settings.resolution_ns))
    with logs.file_or_screen(arguments.log) as log:
        log.line(pfind.log_line(offset_ticks, fine, coarse, arguments.verbosity))
    for packet in hec if arguments.remove_type1 else []:
        hec_inlet.remove(packet.epoch)
    for other in lec if arguments.remove_type2 else []:
        lec_inlet.remove(other.epoch)


if __name__ == "__main__":
    main()
