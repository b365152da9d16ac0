"""run - the whole simulated link as a program: once, or on and on."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kme.epochs.driver import stop_asked
from kme.epochs.qkde import StageReport
from kme.errors import KmeError, SettingsError, StageError
from qkd_sim.errors import ScenarioError
from qkd_sim.programs import options

NAME: Final = "qkd-sim run"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chain as the options say."""
    arguments = _parser().parse_args(argv)
    try:
        options.run(NAME, lambda: _run(arguments))
    except SystemExit as stopped:
        if arguments.reports and stopped.__cause__ is not None:
            # A program that reads reports wants the stage first, without our name before it.
            sys.stderr.write(f"{_with_stage(stopped.__cause__)}\n")
        raise


def _with_stage(error: BaseException) -> StageError:
    """Return an error with the stage that it belongs to."""
    if isinstance(error, StageError):
        return error
    stage = "esim" if isinstance(error, ScenarioError) else "link"
    if isinstance(error, OSError):
        return StageError(stage, f"{error.filename or 'file'}: {error.strerror}")
    return StageError(stage, error.message if isinstance(error, KmeError) else str(error))


def _parser() -> argparse.ArgumentParser:
    parser = options.parser(
        NAME, "The whole link: photon pairs in, final key files (type 7) of both sides out."
    )
    parser.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE",
        help="what to simulate, TOML (default: lab.toml)",
    )
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for the files of all stages"
    )
    for side, name in (("hec", "high"), ("lec", "low")):
        parser.add_argument(
            f"--{side}-final",
            type=Path,
            metavar="DIR",
            help=f"final keys of the {name}-count side (default: WORK/{side}/final)",
        )
    parser.add_argument(
        "--seed",
        type=options.integer(0, 2**63 - 1),
        metavar="N",
        help="repeatable run, start time included: its keys are NO secret",
    )
    parser.add_argument(
        "--continuous", action="store_true", help="stretch after stretch, until a signal"
    )
    parser.add_argument(
        "--reports", action="store_true", help="write a line of JSON per stage, for programs"
    )
    parser.add_argument(
        "--stop-with-input", action="store_true", help="stop when standard input ends"
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    from kme.clock import SystemClock  # noqa: PLC0415 - all of this is slow to import
    from qkd_sim.chain import Chain  # noqa: PLC0415
    from qkd_sim.params import Scenario  # noqa: PLC0415
    from qkd_sim.rounds import Rounds, single  # noqa: PLC0415
    from qkd_sim.scenarios import LAB  # noqa: PLC0415

    if arguments.continuous and arguments.seed is not None:
        raise SettingsError("--continuous takes no --seed: its keys are for use")
    scenario = Scenario.read(arguments.scenario) if arguments.scenario else Scenario.read(LAB)
    work = arguments.work
    final = (
        arguments.hec_final or work / "hec" / "final",
        arguments.lec_final or work / "lec" / "final",
    )
    for folder in (work, *(path for path in final if work not in path.parents)):
        folder.mkdir(parents=True, exist_ok=True)
    report = _as_json if arguments.reports else _in_words
    with stop_asked(stops_with_input=arguments.stop_with_input) as stop:
        if arguments.continuous:
            Rounds(scenario, work, final, SystemClock()).run(report, stop)
        else:
            hec, lec, stretch = single(scenario, work, final, arguments.seed, SystemClock())
            Chain(hec, lec, report, stop.is_set).run(stretch)


def _as_json(report: StageReport) -> None:
    sys.stdout.write(report.to_line() + "\n")
    sys.stdout.flush()


def _in_words(report: StageReport) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in report.facts.items())
    sys.stdout.write(f"{report.stage:<10}{report.duration_s:8.2f} s  {facts}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
