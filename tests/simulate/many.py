"""many - plans in, their outcomes out, on several processors."""

import multiprocessing
from collections.abc import Callable, Sequence

from simulate.plan import Plan
from simulate.run import Outcome, run

_AT_ONCE = 8


def run_many(
    plans: Sequence[Plan],
    n_jobs: int,
    progress: Callable[[int], None] = lambda n_done: None,
) -> list[Outcome]:
    """Run all plans; outcomes come in the order of the plans.

    Parameters
    ----------
    plans
        What to run.
    n_jobs
        In how many processes; in this one if 1, so that what a test has patched counts.
    progress
        Told how many are done, now and then.
    """
    if n_jobs == 1:
        return [run(plan) for plan in plans]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(n_jobs) as pool:
        for outcome in pool.imap(_run_slim, plans, chunksize=_AT_ONCE):
            outcomes.append(outcome)
            if len(outcomes) % 100 == 0:
                progress(len(outcomes))
    return outcomes


def _run_slim(plan: Plan) -> Outcome:
    """Run a plan; the trace of a good run goes no further."""
    outcome = run(plan)
    if outcome.failure is None:
        outcome.trace = []
    return outcome
