"""A thousand worlds keep every rule, and a seed is a world: the same one each time."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from simulate.plan import Plan, StoreKind
from simulate.run import Outcome, run
from simulate.trace import Trace
from simulation import VirtualClock

N_SEEDS = 1000
BATCH = 50
TESTS = Path(__file__).parents[1]


def run_batch(first: int) -> None:
    outcomes = [run(Plan.of(seed)) for seed in range(first, first + BATCH)]
    broken = [one for one in outcomes if one.failure]
    assert not broken, "\n\n".join(one.report() for one in broken[:3])
    given = sum(one.counts["keys given"] for one in outcomes)
    drawn = sum(one.counts["keys drawn"] for one in outcomes)
    assert drawn > 20 * BATCH, "hardly any key was drawn: the worlds prove nothing"
    assert given >= drawn
    assert sum(one.counts["deaths"] for one in outcomes) > 5 * BATCH


# Two classes, for pytest-xdist keeps each on one processor.


class TestOneHalf:
    @pytest.mark.parametrize("first", range(0, N_SEEDS // 2, BATCH))
    def test_no_seed_breaks_a_rule(self, first: int) -> None:
        run_batch(first)


class TestOtherHalf:
    @pytest.mark.parametrize("first", range(N_SEEDS // 2, N_SEEDS, BATCH))
    def test_no_seed_breaks_a_rule(self, first: int) -> None:
        run_batch(first)


class TestReplay:
    @pytest.mark.parametrize("seed", [6, 9, 17])
    def test_a_seed_has_the_same_trace_each_time(self, seed: int) -> None:
        first, second = (run(Plan.of(seed), n_kept=None) for _ in range(2))
        assert first.trace == second.trace
        assert len(first.trace) > 50
        assert first.counts == second.counts

    def test_other_seeds_are_other_worlds(self) -> None:
        assert run(Plan.of(1)).trace != run(Plan.of(2)).trace

    def test_a_seed_is_replayed_in_another_process_whatever_its_hashes(self) -> None:
        here = run(Plan.of(12), n_kept=None)
        paths = [str(TESTS), str(TESTS / "support"), *sys.path]
        replayed = subprocess.run(
            [sys.executable, "-m", "simulate", "--seed", "12"],
            env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()
        assert replayed[1:-1] == here.trace
        assert replayed[-1] == "every rule was kept"

    def test_a_failure_says_what_broke_how_it_came_to_it_and_how_to_see_it_again(self) -> None:
        events = [f"{n:9.3f}  alice        asks" for n in range(500)]
        report = Outcome(Plan.of(3), "BrokenRuleError: twice", trace=events).report()
        assert report.startswith("seed 3: memory")
        assert "BrokenRuleError: twice" in report
        assert "499.000  alice" in report
        assert report.endswith("make simulate SEED=3")
        assert len(report.splitlines()) < 150

    def test_a_trace_keeps_the_last_events_and_says_how_many_came_before(self) -> None:
        clock = VirtualClock()
        trace = Trace(clock, n_kept=2)
        for number in range(5):
            trace.note("kme-a", f"event {number}")
            clock.advance(1.5)
        assert trace.lines() == [
            "... 3 events before",
            "    4.500  kme-a        event 3",
            "    6.000  kme-a        event 4",
        ]
        assert trace.lines(1)[-1].endswith("event 4")


def test_the_seeds_cover_both_stores_all_modes_and_restored_backups() -> None:
    plans = [Plan.of(seed) for seed in range(N_SEEDS)]
    assert {plan.n_workers for plan in plans} == {0, 1, 2, 3}
    for kind, least in ((StoreKind.VAULT, 100), (StoreKind.MEMORY, 500)):
        some = [plan for plan in plans if plan.store is kind]
        assert len(some) > least
        assert sum(plan.kill_every_s > 0 for plan in some) > least / 4
        assert sum(plan.is_restored for plan in some) > least / 20


def test_a_plan_is_of_its_seed_alone() -> None:
    random.seed(5)
    assert Plan.of(8) == Plan.of(8)
    assert Plan.of(8, n_workers=0).n_workers == 0
