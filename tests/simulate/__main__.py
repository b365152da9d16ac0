"""Run many seeds on all processors, or replay one: ``python -m simulate --seeds 10000``."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from simulate.many import run_many
from simulate.plan import Plan
from simulate.run import run

_SHOWN_COUNTS = (
    "blocks", "messages", "messages lost", "partitions", "outages", "deaths", "restores",
    "keys given", "keys drawn", "thefts refused",
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
    plans = [Plan.of(seed) for seed in range(options.first, options.first + options.seeds)]
    counts, n_failed = run_all(plans, options.jobs)
    return bool(n_failed or not counts)


def run_all(plans: Sequence[Plan], n_jobs: int) -> tuple[Counter[str], int]:
    """Run all plans, print what breaks a rule and a summary; return counts and failures."""
    begun_s = time.monotonic()
    counts, n_failed = Counter[str](), 0
    for n_done, outcome in enumerate(run_many(plans, n_jobs), start=1):
        counts += outcome.counts
        if outcome.failure:
            n_failed += 1
            full = n_failed <= _MAX_REPORTS
            print(outcome.report() if full else f"{outcome.plan}: {outcome.failure}", flush=True)
        if n_done % 1000 == 0:
            print(f"{n_done} seeds, {time.monotonic() - begun_s:.0f} s", flush=True)
    lasted_s = time.monotonic() - begun_s
    print(f"seeds           {len(plans)}, {n_failed} of them broke a rule")
    print(f"time            {lasted_s:.1f} s, {len(plans) / lasted_s:.1f} seeds per second")
    for name in _SHOWN_COUNTS:
        print(f"{name:<15} {counts[name]}, {counts[name] / lasted_s:.1f} per second")
    return counts, n_failed


def replay(seed: int) -> int:
    """Run one seed and print all that happened."""
    outcome = run(Plan.of(seed), n_kept=None)
    print("\n".join((str(outcome.plan), *outcome.trace)))
    print(outcome.failure or "every rule was kept")
    return bool(outcome.failure)


if __name__ == "__main__":
    sys.exit(main())
