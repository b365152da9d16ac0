"""costream - the stage `qkd_sim.costream` as a program."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kme.ids import Epoch
from qkd_sim.programs import inlets, logs, options, outlets

if TYPE_CHECKING:
    from qkd_sim.costream import CostreamSettings
    from qkd_sim.packets import Type1
    from qkd_sim.sifted import SiftedEpoch

NAME = "costream"


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, sift, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _sift(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME,
        "High-count side: types 1 and 2 to coincidences, sifted key (type 3) and the indices\n"
        "of the events kept (type 4, sent). Times are in ticks of 125 ps.",
    )
    inlets.add_input(parser, ("-D", "--type1-dir"), ("-I", "--type1-stream"), "type-1 packets")
    inlets.add_input(parser, ("-d", "--type2-dir"), ("-i", "--type2-stream"), "type-2 packets")
    outlets.add_output(parser, ("-f", "--key-dir"), ("-o", "--key-stream"), "sifted key")
    outlets.add_output(parser, ("-F", "--type4-dir"), ("-O", "--type4-stream"), "type-4 packets")
    outlets.add_output(
        parser, ("-B", "--test-dir"), ("-b", "--test-stream"), "Bell tests", is_required=False
    )
    parser.add_argument(
        "-e",
        "--start-epoch",
        type=options.epoch,
        metavar="EPOCH",
        help="first epoch, decimal or 0x hexadecimal (needed with folders)",
    )
    _add_number(parser, "-q", "--epochs", "how many epochs; 0: until there is none left", 0)
    _add_search(parser)
    _add_files_and_logs(parser)
    parser.set_defaults(epoch_pipe=None)
    return parser


def _add_number(
    parser: argparse.ArgumentParser, letter: str, name: str, text: str, default: int
) -> None:
    """Add an option that takes a whole number from 0 on."""
    parser.add_argument(
        letter,
        name,
        type=options.integer(0),
        default=default,
        metavar="N",
        help=f"{text} (default: {default})",
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options on what counts as a coincidence."""
    parser.add_argument(
        "-t",
        "--offset-ticks",
        type=int,
        required=True,
        metavar="TICKS",
        help="time difference of the clocks, as pfind finds it",
    )
    _add_number(parser, "-w", "--window-ticks", "half width of the coincidence window", 8)
    _add_number(parser, "-u", "--tracking-ticks", "half width of the tracking window", 40)
    _add_number(parser, "-a", "--accidental-ticks", "where accidentals are counted", 160)
    parser.add_argument(
        "-Q",
        "--tracking-constant",
        type=int,
        default=0,
        metavar="N",
        help="follow the clock: over N pairs, or if below 0, over -N microseconds; 0 never",
    )
    _add_number(parser, "-p", "--protocol", "0 service, 1 BB84, 4 four detectors, 5 BC", 1)
    _add_number(parser, "-R", "--width-filter", "epochs over which index widths adapt; 0 never", 0)
    parser.add_argument(
        "-S",
        "--skews-ticks",
        type=int,
        nargs=4,
        default=[0, 0, 0, 0],
        metavar="TICKS",
        help="added to type-1 times of detectors 1, 2, 4, 8",
    )
    parser.add_argument(
        "--allow-gaps", action="store_true", help="go on over epochs that a stream lacks"
    )


def _add_files_and_logs(parser: argparse.ArgumentParser) -> None:
    """Add the options on what is written, deleted and logged."""
    parser.add_argument(
        "-T",
        "--zero-policy",
        type=options.integer(0, 2),
        default=1,
        metavar="N",
        help="an epoch without coincidences leaves: 0 nothing, 1 type 4 (default), 2 both files",
    )
    parser.add_argument(
        "-k", "--remove-type2", action="store_true", help="delete type-2 files read"
    )
    parser.add_argument(
        "-K", "--remove-type1", action="store_true", help="delete type-1 files read"
    )
    for letter, name, what in (
        ("-l", "--log-type1", "type-1 packets read"),
        ("-L", "--log-type2", "type-2 packets read"),
        ("-m", "--log-key", "sifted keys written"),
        ("-M", "--log-type4", "type-4 packets written"),
    ):
        parser.add_argument(
            letter, name, type=Path, metavar="FILE", help=f"the epoch of each of the {what}"
        )
    parser.add_argument(
        "-n", "--log", type=Path, metavar="FILE", help="append log here (default: standard output)"
    )
    parser.add_argument(
        "-V",
        "--verbosity",
        type=int,
        default=0,
        metavar="N",
        help="log level; 0 epoch, 1 and number kept, 2 to 4 in words, 5 numbers; below 0 nothing",
    )
    parser.add_argument(
        "-G",
        "--flush",
        type=options.integer(0, 3),
        default=0,
        metavar="N",
        help="above 0: hand over each log line at once",
    )
    parser.add_argument("--summary", action="store_true", help="end the log with the totals")


def _settings(arguments: argparse.Namespace) -> "CostreamSettings":
    """Return what the options say about the search."""
    from qkd_sim.costream import CostreamSettings  # noqa: PLC0415 - numba is slow to import

    return CostreamSettings(
        offset_ticks=arguments.offset_ticks,
        window_ticks=arguments.window_ticks,
        tracking_window_ticks=arguments.tracking_ticks,
        accidental_distance_ticks=arguments.accidental_ticks,
        tracking_constant=arguments.tracking_constant,
        protocol=arguments.protocol,
        width_filter=arguments.width_filter,
        skews_ticks=tuple(arguments.skews_ticks),
        allows_gaps=arguments.allow_gaps,
    )


def _sift(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import costream, sifted  # noqa: PLC0415 - numba is slow to import
    from qkd_sim.packets import Type1, Type2  # noqa: PLC0415

    settings = _settings(arguments)
    hec_inlet = inlets.Inlet(Type1, arguments.type1_dir, arguments.type1_stream)
    lec_inlet = inlets.Inlet(Type2, arguments.type2_dir, arguments.type2_stream)
    lec = inlets.wanted(lec_inlet, arguments)
    first = next(lec, None)
    if first is None:
        return
    summary = sifted.Summary()
    with ExitStack() as stack:
        writer = _Writer(arguments, stack)
        hec = _Reader(hec_inlet, first.epoch, writer.log_type1)
        for epoch in costream.sift(hec.packets(), itertools.chain([first], lec), settings):
            writer.put(epoch)
            summary.add(epoch)
            if arguments.remove_type1:
                hec.remove_until(epoch.epoch)
            if arguments.remove_type2:
                lec_inlet.remove(epoch.epoch)
        if arguments.summary:
            writer.log.line(sifted.summary_line(summary))


class _Reader:
    """Type-1 packets from an epoch on, until there is none left."""

    def __init__(self, inlet: "inlets.Inlet[Type1]", first: Epoch, log: logs.Log) -> None:
        self._inlet = inlet
        self._first = first
        self._log = log
        self._read: list[Epoch] = []

    def packets(self) -> "Iterator[Type1]":
        """Read them, one after another."""
        for packet in self._from_folder() if self._inlet.is_folder else self._from_stream():
            self._read.append(packet.epoch)
            self._log.line(f"{packet.epoch}")
            yield packet

    def remove_until(self, epoch: Epoch) -> None:
        """Delete the files read up to this epoch's."""
        if epoch in self._read:
            n_done = self._read.index(epoch) + 1
            for done in self._read[:n_done]:
                self._inlet.remove(done)
            del self._read[:n_done]

    def _from_folder(self) -> "Iterator[Type1]":
        """Read files in the order of their epochs."""
        from qkd_sim.epochsplit import following  # noqa: PLC0415 - numba is slow to import

        epoch = self._first
        yield self._inlet.take(epoch)
        while self._inlet.has(epoch := following(epoch, is_universal=not epoch.is_local)):
            yield self._inlet.take(epoch)

    def _from_stream(self) -> "Iterator[Type1]":
        """Read a stream from the first epoch on."""
        yield self._inlet.take(self._first)
        yield from self._inlet.rest()


class _Writer:
    """Where results and log lines go."""

    def __init__(self, arguments: argparse.Namespace, stack: ExitStack) -> None:
        self._key_outlet, self._type4_outlet, self._test_outlet = (
            stack.enter_context(outlets.open_outlet(directory, stream))
            for directory, stream in (
                (arguments.key_dir, arguments.key_stream),
                (arguments.type4_dir, arguments.type4_stream),
                (arguments.test_dir, arguments.test_stream),
            )
        )
        self.log_type1, self._log_type2, self._log_key, self._log_type4 = (
            stack.enter_context(logs.file_or_nothing(path))
            for path in (
                arguments.log_type1,
                arguments.log_type2,
                arguments.log_key,
                arguments.log_type4,
            )
        )
        self.log = stack.enter_context(
            logs.screen_or_file(
                arguments.log, arguments.verbosity, is_flushed=bool(arguments.flush)
            )
        )
        self._verbosity = arguments.verbosity
        self._zero_policy = arguments.zero_policy

    def put(self, sifted: "SiftedEpoch") -> None:
        """Write one epoch's packets and lines."""
        from qkd_sim.costream import ZeroPolicy  # noqa: PLC0415 - numba is slow to import
        from qkd_sim.sifted import log_line  # noqa: PLC0415

        least = ZeroPolicy.BOTH if sifted.n_kept == 0 else ZeroPolicy.NOTHING
        if self._zero_policy >= least:
            self._key_outlet.put(sifted.key)
            if sifted.tests is not None:
                self._test_outlet.put(sifted.tests)
            self._log_key.line(f"{sifted.epoch}")
        if sifted.n_kept or self._zero_policy >= ZeroPolicy.INDICES:
            self._type4_outlet.put(sifted.indices)
            self._log_type4.line(f"{sifted.epoch}")
        self._log_type2.line(f"{sifted.epoch}")
        self.log.line(log_line(sifted, self._verbosity))


if __name__ == "__main__":
    main()
