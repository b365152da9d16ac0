"""Run many seeds on all processors, or replay one: ``python -m simulate --seeds 10000``."""

import argparse
import os
import sys
import time
from collections import Counter

from simulate.many import run_many
from simulate.plan import Plan
from simulate.run import run

_SHOWN_COUNTS = (
    "blocks", "messages", "messages lost", "partitions", "deaths", "restores",
    "keys given", "keys drawn",
)  # fmt: skip
_MAX_REPORTS = 3


def main() -> int:
    """Run what the command line says; the exit code tells whether every rule was kept."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay just this one, and print all of it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed)
    begun_s = time.monotonic()
    outcomes = run_many(
        [Plan.of(seed) for seed in range(options.first, options.first + options.seeds)],
        options.jobs,
        _show_progress if sys.stderr.isatty() else lambda n_done: None,
    )
    lasted_s = time.monotonic() - begun_s
    failed = [one for one in outcomes if one.failure]
    for one in failed[:_MAX_REPORTS]:
        print(one.report(), end="\n\n")
    for one in failed[_MAX_REPORTS:]:
        print(f"{one.plan}: {one.failure}")
    counts = sum((one.counts for one in outcomes), Counter[str]())
    print(f"seeds           {len(outcomes)}, {len(failed)} of them broke a rule")
    print(f"time            {lasted_s:.1f} s, {len(outcomes) / lasted_s:.1f} seeds per second")
    for name in _SHOWN_COUNTS:
        print(f"{name:<15} {counts[name]}, {counts[name] / lasted_s:.1f} per second")
    return bool(failed)


def replay(seed: int) -> int:
    """Run one seed and print all that happened."""
    outcome = run(Plan.of(seed), n_kept=None)
    print("\n".join((str(outcome.plan), *outcome.trace)))
    print(outcome.failure or "every rule was kept")
    return bool(outcome.failure)


def _show_progress(n_done: int) -> None:
    print(f"\r{n_done} seeds", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
