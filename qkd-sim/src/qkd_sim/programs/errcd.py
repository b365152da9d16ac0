"""errcd - error correction daemon: raw keys of type 3 in, final keys of type 7 out."""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kme.errors import InputError
from qkd_sim.programs.options import parser, run

if TYPE_CHECKING:
    from qkd_sim.errcd.channel import DescriptorStream
    from qkd_sim.errcd.daemon import Daemon, Duties, Rules

_NAME: Final = "errcd"

_EPILOG: Final = """\
Two of these, one at either end, share nothing but the channel: two FIFOs (-s, -r), or a
socket (--listen, --connect, --fd). The channel is not authenticated: keep both ends on one
host or put TLS around it. Who is given a command (-c, --block) is Alice, whose key is the
reference; the other one is Bob, who corrects.

A command is a line "EPOCH N [QBER [BELL]]": the first epoch in hexadecimal, how many epochs,
the error rate to expect. Both sides need the same -e, --qber-limit and --preset-qber.

Notifications (-V): 0 epoch; 1 epoch, final bits; 2 epoch, sifted bits, final bits, QBER,
number of epochs (final bits 0 for a block that was refused); 3 a sentence; 4 like 2, with the
parities disclosed in the last place; 5 a sentence.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one side of error correction and privacy amplification."""
    options = _parser()
    arguments = options.parse_args(argv)
    if arguments.no_amplification:
        options.error("-p: a key that wasn't amplified is no secret and is never written")
    run(_NAME, lambda: _work(arguments))


def _parser() -> argparse.ArgumentParser:
    options = parser(_NAME, "reconcile, verify and amplify sifted key into final key")
    options.epilog = _EPILOG
    _add_files(options)
    _add_rules(options)
    _add_ignored(options)
    return options


def _add_files(options: argparse.ArgumentParser) -> None:
    files = options.add_argument_group("channel, commands and files")
    files.add_argument("-c", "--commands", type=Path, metavar="FIFO", help="commands (or a file)")
    files.add_argument("-s", "--send", type=Path, metavar="FIFO", help="to the other side")
    files.add_argument("-r", "--receive", type=Path, metavar="FIFO", help="from the other side")
    socket = files.add_mutually_exclusive_group()
    socket.add_argument("--listen", metavar="HOST:PORT", help="wait for the other side there")
    socket.add_argument("--connect", metavar="HOST:PORT", help="the other side listens there")
    socket.add_argument("--fd", type=int, metavar="N", help="inherited connected socket")
    files.add_argument(
        "-d", "--raw-keys", type=Path, required=True, metavar="DIR", help="raw keys, type 3"
    )
    files.add_argument(
        "-f", "--final-keys", type=Path, required=True, metavar="DIR", help="final keys, type 7"
    )
    files.add_argument("-l", "--notify", type=Path, metavar="FILE", help="notifications")
    files.add_argument(
        "-V", dest="line_format", type=int, choices=range(6), default=0, help="their format (0)"
    )
    files.add_argument(
        "-k", dest="is_raw_deleted", action="store_true", help="delete used raw keys"
    )
    files.add_argument(
        "-T",
        dest="tolerance",
        type=int,
        choices=range(3),
        default=0,
        help="0: any error ends the program; 1, 2: bad commands and raw keys don't (0)",
    )
    files.add_argument(
        "--block",
        action="append",
        metavar="EPOCH:N",
        help="work on N epochs from EPOCH (hexadecimal) on, then end; repeatable",
    )
    files.add_argument("--json", type=Path, metavar="FILE", help="figures of all blocks")
    files.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="wait so long for the peer, s (60)"
    )


def _add_rules(options: argparse.ArgumentParser) -> None:
    rules = options.add_argument_group("rules")
    rules.add_argument(
        "-E",
        dest="qber",
        type=float,
        default=0.03,
        metavar="QBER",
        help="expected error rate (0.03)",
    )
    rules.add_argument(
        "-I",
        dest="is_qber_given",
        action="store_true",
        help="choose block sizes by -E, not by the sample (which is taken all the same)",
    )
    rules.add_argument(
        "-e",
        dest="margin",
        type=float,
        default=0.0,
        metavar="SIGMAS",
        help="count so many standard deviations more errors (0)",
    )
    checks = rules.add_mutually_exclusive_group()
    checks.add_argument(
        "-b",
        dest="checks",
        type=int,
        default=20,
        metavar="N",
        help="final random checks, 1..100 (20)",
    )
    checks.add_argument(
        "-B", dest="error_target", type=float, metavar="P", help="-b by the error rate to be left"
    )
    rules.add_argument(
        "--qber-limit", type=float, default=0.11, metavar="QBER", help="refuse blocks above (0.11)"
    )
    rules.add_argument(
        "--preset-qber",
        type=float,
        metavar="QBER",
        help="compute all lengths for this error rate, refuse blocks above",
    )
    rules.add_argument("--variant", default="plain", help="of Cascade: fast or plain (plain)")
    rules.add_argument(
        "--seed", type=int, metavar="N", help="repeatable protocol randomness: keys are NO secret"
    )


def _add_ignored(options: argparse.ArgumentParser) -> None:
    ignored = options.add_argument_group("options of the C program without effect here")
    ignored.add_argument("-Q", dest="query", nargs="?", const="", metavar="FIFO", help="queries")
    ignored.add_argument("-q", dest="response", nargs="?", const="", metavar="FIFO", help="answers")
    ignored.add_argument(
        "-J", dest="intrinsic", type=float, metavar="QBER", help="errors not counted as Eve's"
    )
    ignored.add_argument("-i", dest="bell", action="store_true", help="use the Bell value")
    ignored.add_argument(
        "-p", dest="no_amplification", action="store_true", help="no amplification: refused"
    )


_IGNORED: Final = {
    "query": "-Q: there is no query interface",
    "response": "-q: there is no query interface",
    "intrinsic": "-J: all errors are counted as an eavesdropper's",
    "bell": "-i: the Bell value is not used",
}


def _warn(text: str) -> None:
    sys.stderr.write(f"{_NAME}: warning: {text}\n")


def _work(arguments: argparse.Namespace) -> None:
    from qkd_sim.errcd.channel import FramedChannel  # noqa: PLC0415 - numba takes its time
    from qkd_sim.errcd.daemon import Daemon  # noqa: PLC0415
    from qkd_sim.errcd.report import write_json  # noqa: PLC0415

    logging.basicConfig(format=f"{_NAME}: %(message)s", level=logging.WARNING)
    for name, text in _IGNORED.items():
        if getattr(arguments, name) not in {None, False}:
            _warn(f"{text}; ignored")
    if arguments.commands and arguments.block:
        raise InputError("-c and --block exclude each other")
    rules = _rules(arguments)
    duties = _duties(arguments)
    stream = _stream(arguments)
    daemon = Daemon(FramedChannel(stream, arguments.timeout), duties, rules)
    try:
        _run_daemon(arguments, daemon, stream.reading)
    finally:
        stream.close()
        if duties.notifier:
            duties.notifier.close()
        if arguments.json:
            write_json(arguments.json, daemon.blocks)
    if daemon.blocks and not daemon.n_keys:
        raise InputError(f"none of {len(daemon.blocks)} blocks gave a key")


def _run_daemon(arguments: argparse.Namespace, daemon: "Daemon", descriptor: int) -> None:
    from qkd_sim.errcd.commands import CommandSource, parse_block  # noqa: PLC0415

    if arguments.block:
        daemon.offer_all([parse_block(text) for text in arguments.block])
    elif arguments.commands:
        source = CommandSource(arguments.commands)
        try:
            daemon.serve(source, descriptor)
        finally:
            source.close()
    else:
        daemon.accept_all()


def _rules(arguments: argparse.Namespace) -> "Rules":
    from qkd_sim.errcd.daemon import Rules  # noqa: PLC0415
    from qkd_sim.errcd.randomness import SeededRandomness, SystemRandomness  # noqa: PLC0415
    from qkd_sim.errcd.terms import Conduct, Terms  # noqa: PLC0415

    terms = Terms(
        qber_limit=arguments.qber_limit,
        preset_qber=arguments.preset_qber,
        margin_sigmas=arguments.margin,
    )
    conduct = Conduct(
        expected_qber=arguments.qber,
        block_qber=arguments.qber if arguments.is_qber_given else None,
        variant=arguments.variant,
        check_bits=_check_bits(arguments),
    )
    seed = arguments.seed
    if seed is None:
        return Rules(terms, conduct, lambda _epoch: SystemRandomness())
    _warn("the protocol's randomness is seeded: these keys are no secret")
    return Rules(terms, conduct, lambda epoch: SeededRandomness(seed, f"errcd/{epoch}"))


def _check_bits(arguments: argparse.Namespace) -> int:
    """Return the number of final checks, by the C program's rule if an error rate is asked for."""
    n_checks = int(arguments.checks)
    if arguments.error_target is not None:
        if not 0 < arguments.error_target < 1:
            raise InputError(f"-B: an error rate of {arguments.error_target:g} is not in 0..1")
        n_checks = max(1, int(-math.log2(arguments.error_target / 0.0032)))
    if not 1 <= n_checks <= 100:
        raise InputError(f"{n_checks} final checks, not 1..100")
    return n_checks


def _duties(arguments: argparse.Namespace) -> "Duties":
    from qkd_sim.errcd.daemon import Duties  # noqa: PLC0415
    from qkd_sim.errcd.report import Notifier  # noqa: PLC0415

    for folder in (arguments.raw_keys, arguments.final_keys):
        if not folder.is_dir():
            raise InputError(f"{folder}: is no folder")
    return Duties(
        raw_keys=arguments.raw_keys,
        final_keys=arguments.final_keys,
        notifier=Notifier(arguments.notify) if arguments.notify else None,
        line_format=arguments.line_format,
        is_raw_deleted=arguments.is_raw_deleted,
        tolerance=arguments.tolerance,
    )


def _stream(arguments: argparse.Namespace) -> "DescriptorStream":
    from qkd_sim.errcd import connect  # noqa: PLC0415

    if not 0 < arguments.timeout <= 86400:
        raise InputError(f"--timeout: {arguments.timeout:g} s is not in 0..86400")
    has_fifos = bool(arguments.send) and bool(arguments.receive)
    has_socket = bool(arguments.listen or arguments.connect or arguments.fd is not None)
    if has_fifos == has_socket or bool(arguments.send) != bool(arguments.receive):
        raise InputError("give -s and -r, or one of --listen, --connect and --fd")
    if arguments.listen:
        return connect.listen(connect.parse_address(arguments.listen), arguments.timeout)
    if arguments.connect:
        return connect.connect(connect.parse_address(arguments.connect), arguments.timeout)
    if arguments.fd is not None:
        return connect.inherit(arguments.fd)
    return connect.open_fifos(arguments.send, arguments.receive, arguments.timeout)


if __name__ == "__main__":
    main()
