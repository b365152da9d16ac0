"""many - plans in, their outcomes out, on several processors."""

import multiprocessing
from collections.abc import Iterator, Sequence

from simulate.plan import Plan
from simulate.run import Outcome, run

_AT_ONCE = 4


def run_many(plans: Sequence[Plan], n_jobs: int) -> Iterator[Outcome]:
    """Run all plans; outcomes come in the order of the plans, as soon as they are there.

    Parameters
    ----------
    plans
        What to run.
    n_jobs
        In how many processes; in this one if 1.
    """
    if n_jobs == 1:
        yield from map(_run_slim, plans)
        return
    with multiprocessing.get_context("spawn").Pool(n_jobs) as pool:
        yield from pool.imap(_run_slim, plans, chunksize=_AT_ONCE)


def _run_slim(plan: Plan) -> Outcome:
    """Run a plan; the trace of a good run goes no further."""
    outcome = run(plan)
    if outcome.failure is None:
        outcome.trace = []
    return outcome
