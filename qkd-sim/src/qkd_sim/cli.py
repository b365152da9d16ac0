"""qkd-sim - the whole chain by stages: ``qkd-sim STAGE [options]`` runs the stage's program."""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

STAGES: Final[Mapping[str, str]] = {
    "esim": "simulate photon pairs, fibre and detectors: two streams of raw events",
    "chopper": "low-count side: raw events to packets of types 2 (sent) and 3 (kept)",
    "chopper2": "high-count side: raw events to packets of type 1",
    "getrate": "raw events to count rates",
    "pfind": "clock offset between the sides, from packets of types 1 and 2",
    "costream": "high-count side: coincidences to sifted key and packets of type 4",
    "splicer": "low-count side: packets of types 3 and 4 to sifted key",
    "errcd": "sifted key to final key, one party of two",
    "run": "the whole chain, from events to final key files on both sides",
    "warm": "compile all kernels, so that later runs start at once",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one stage's program with the options behind its name."""
    arguments = _parser().parse_args(argv)
    # only the stage that is asked for is imported: most of them bring a compiler along
    program = importlib.import_module(f"qkd_sim.programs.{arguments.stage}")
    run: Callable[[Sequence[str]], None] = program.main
    run(arguments.options)


def _parser() -> argparse.ArgumentParser:
    """Return the options in front of the stage's own."""
    width = max(map(len, STAGES))
    listing = "\n".join(f"  {name:{width}}  {says}" for name, says in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="qkd-sim",
        usage="qkd-sim STAGE [options]",
        description="A simulated QKD link: photon events in, final key files out.",
        epilog=f"stages:\n{listing}\n\nqkd-sim STAGE --help lists a stage's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help="one of those below")
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser
