"""esim - the stage `qkd_sim.esim` as a program."""

import argparse
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from qkd_sim.params import Channel, Clock, Detectors, Eavesdropper, Run, Scenario, Side, Source
from qkd_sim.programs import logs, options

NAME = "esim"

DEFAULT_PAIRS: Final = 2e6
DEFAULT_RATE_HZ: Final = 1e5
REPRODUCIBLE_SEED: Final = 123456789
REPRODUCIBLE_START_NS: Final = 1587318692304817123

_Table = TypeVar("_Table", Source, Detectors, Clock, Eavesdropper, Run)


def main(argv: Sequence[str] | None = None) -> None:
    """Read options, simulate, end with 0 or one line and 1."""
    arguments = _parser().parse_args(argv)
    options.run(NAME, lambda: _simulate(arguments))


def _parser() -> argparse.ArgumentParser:
    """Return the options; their letters are those of the C program."""
    parser = options.parser(
        NAME,
        "Simulate photon pairs and their detection: two files of raw events, one per side.\n"
        "Without a scenario everything is ideal (2e6 pairs at 1e5/s, no loss, no jitter, no dark\n"
        "counts), as in the C program; the other options override what the scenario says.",
    )
    parser.add_argument(
        "-F", "--hec-file", type=Path, required=True, metavar="FILE", help="high-count events"
    )
    parser.add_argument(
        "-f", "--lec-file", type=Path, required=True, metavar="FILE", help="low-count events"
    )
    parser.add_argument(
        "--scenario", type=Path, metavar="FILE", help="TOML file of source, channels and detectors"
    )
    _add_physics(parser)
    _add_randomness(parser)
    parser.add_argument("-G", "--log", type=Path, metavar="FILE", help="default: standard output")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="log the whole scenario, too"
    )
    loudness.add_argument("-q", "--quiet", action="store_true", help="log nothing")
    return parser


def _add_physics(parser: argparse.ArgumentParser) -> None:
    """Add the options that override the scenario."""
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "-n", "--pairs", type=_number, metavar="N", help="pairs emitted, on average"
    )
    extent.add_argument("--duration-s", type=_number, metavar="S", help="simulated time")
    for letter, name, metavar, text in (
        ("-e", "--pair-rate-hz", "HZ", "pairs emitted per second"),
        ("-o", "--lec-offset-ns", "NS", "low-count side's clock is ahead by this"),
        ("-O", "--hec-offset-ns", "NS", "high-count side's clock is ahead by this"),
        ("-l", "--lec-loss", "FRACTION", "photons lost on the way to the low-count side"),
        ("-L", "--hec-loss", "FRACTION", "photons lost on the way to the high-count side"),
        ("-m", "--error-fraction", "FRACTION", "QBER of the source, up to 0.5"),
        ("-c", "--drift", "RELATIVE", "low-count side's clock is faster by this"),
        ("-d", "--lec-distance-m", "M", "way to the low-count side, at the speed of light"),
        ("-D", "--hec-distance-m", "M", "way to the high-count side, at the speed of light"),
    ):
        parser.add_argument(letter, name, type=_number, metavar=metavar, help=text)
    for name, metavar, text in (
        ("--jitter-fwhm-ps", "PS", "timing jitter of all detectors"),
        ("--dark-rate-hz", "HZ", "dark counts of each detector per second"),
        ("--dead-time-ns", "NS", "dead time of all detectors"),
        ("--intercepted-fraction", "FRACTION", "photons that an eavesdropper resends"),
    ):
        parser.add_argument(name, type=_number, metavar=metavar, help=text)
    parser.add_argument(
        "-u", "--uniform", action="store_true", help="pairs at equal distances in time"
    )


def _add_randomness(parser: argparse.ArgumentParser) -> None:
    """Add the options on seed and start time."""
    parser.add_argument(
        "-r",
        "--reproducible",
        action="store_true",
        help="a fixed seed and start time unless -s or -t give others",
    )
    parser.add_argument(
        "-s",
        "--seed",
        type=options.integer(0),
        metavar="N",
        help=f"seed (default: from the system; with -r {REPRODUCIBLE_SEED})",
    )
    parser.add_argument(
        "-t",
        "--start-time-ns",
        type=options.integer(0),
        metavar="NS",
        help=f"Unix time of the start (default: now; with -r {REPRODUCIBLE_START_NS})",
    )


def _number(text: str) -> float:
    """Read a number, also in scientific notation."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def scenario_of(arguments: argparse.Namespace) -> Scenario:
    """Return the scenario file, or the ideal one, with the options' overrides.

    Raises
    ------
    ScenarioError
        If the file is wrong or a value out of range.
    """
    if arguments.scenario is not None:
        scenario = Scenario.read(arguments.scenario)
    else:
        run = Run(DEFAULT_PAIRS / (arguments.pair_rate_hz or DEFAULT_RATE_HZ))
        scenario = Scenario(Source(DEFAULT_RATE_HZ), run)
    scenario = replace(
        scenario,
        source=_source(scenario.source, arguments),
        hec=_side(scenario.hec, arguments, arguments.hec_loss, arguments.hec_distance_m),
        lec=_side(scenario.lec, arguments, arguments.lec_loss, arguments.lec_distance_m),
        clock=_overridden(
            scenario.clock,
            offset_ns=arguments.lec_offset_ns,
            drift_ppb=_mapped(arguments.drift, lambda drift: drift * 1e9),
        ),
        eavesdropper=_overridden(
            scenario.eavesdropper, intercepted_fraction=arguments.intercepted_fraction
        ),
    )
    duration_s = arguments.duration_s
    if duration_s is None and arguments.pairs is not None:
        duration_s = arguments.pairs / scenario.source.pair_rate_hz
    return replace(scenario, run=_overridden(scenario.run, duration_s=duration_s))


def _source(source: Source, arguments: argparse.Namespace) -> Source:
    """Override the source."""
    visibility = _mapped(arguments.error_fraction, lambda error: 1.0 - 2.0 * error)
    return _overridden(
        source,
        pair_rate_hz=arguments.pair_rate_hz,
        visibility_hv=visibility,
        visibility_diagonal=visibility,
        is_uniform=arguments.uniform or None,
    )


def _side(
    side: Side, arguments: argparse.Namespace, loss: float | None, distance_m: float | None
) -> Side:
    """Override one side's channel and detectors."""
    channel: Channel = side.channel
    if loss is not None:
        channel = replace(channel, loss_db=None, transmission=1.0 - loss)
    if distance_m is not None:
        channel = replace(
            channel, length_km=distance_m / 1e3, attenuation_db_per_km=0.0, group_index=1.0
        )
    detectors = _overridden(
        side.detectors,
        jitter_fwhm_ps=arguments.jitter_fwhm_ps,
        dark_rate_hz=arguments.dark_rate_hz,
        dead_time_ns=arguments.dead_time_ns,
    )
    return Side(channel, detectors)


def _overridden(table: _Table, **values: float | None) -> _Table:
    """Return a table with those fields replaced that an option names."""
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    return replace(table, **given)


def _mapped(value: float | None, function: Callable[[float], float]) -> float | None:
    """Convert an option's unit, if it was given."""
    return None if value is None else function(value)


def _simulate(arguments: argparse.Namespace) -> None:
    """Do what the options say."""
    from qkd_sim import esim  # noqa: PLC0415 - numba is slow to import

    scenario = scenario_of(arguments)
    seed, start_time_ns = arguments.seed, arguments.start_time_ns
    if seed is None:
        seed = REPRODUCIBLE_SEED if arguments.reproducible else secrets.randbits(128)
    if start_time_ns is None:
        start_time_ns = REPRODUCIBLE_START_NS if arguments.reproducible else time.time_ns()
    if arguments.hec_offset_ns is not None:
        # both clocks count from the start: one that is ahead is another start
        start_time_ns += round(arguments.hec_offset_ns)
        offset_ns = scenario.clock.offset_ns - round(arguments.hec_offset_ns)
        scenario = replace(scenario, clock=replace(scenario.clock, offset_ns=offset_ns))
    chunks = esim.simulate_chunks(scenario, start_time_ns, seed)
    n_hec, n_lec = esim.write_events(chunks, arguments.hec_file, arguments.lec_file)
    if arguments.quiet:
        return
    with logs.file_or_screen(arguments.log) as log:
        if arguments.verbose:
            log.line(f"scenario: {scenario}")
        log.line(f"simulated time: {scenario.run.duration_s:g} s")
        log.line(f"high-count events: {n_hec} in {arguments.hec_file}")
        log.line(f"low-count events: {n_lec} in {arguments.lec_file}")


if __name__ == "__main__":
    main()
