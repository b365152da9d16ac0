"""run - a plan in, what came of it out: the counts of a good run, the trace of a bad one."""

import asyncio
import gc
import logging
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kme.runtime import first_error
from simulate.checks import check_all
from simulate.plan import Plan
from simulate.recovery import RestoredCopy, SaidRestore, restore_some_time
from simulate.trace import KEPT_EVENTS, Trace
from simulate.world import World
from simulation import SimulatedCrash, VirtualClock, run_virtual

SHOWN_EVENTS = 120
_MAX_VIRTUAL_S = 2000.0


@dataclass
class Outcome:
    """What came of one run.

    Parameters
    ----------
    plan
        What was run.
    failure
        What broke; None if nothing did.
    counts
        What happened how often.
    trace
        The events kept.
    """

    plan: Plan
    failure: str | None
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Return what a person needs to understand and to replay a failure."""
        lines = [f"{self.plan}: {self.failure}", str(vars_of(self.plan))]
        return "\n".join((*lines, *self.trace[-SHOWN_EVENTS:], self._again()))

    def _again(self) -> str:
        return f"replay: make simulate SEED={self.plan.seed}"


def vars_of(plan: Plan) -> dict[str, Any]:
    """Return what a plan says."""
    return {name: getattr(plan, name) for name in Plan.__slots__}


def run(plan: Plan, n_kept: int | None = KEPT_EVENTS) -> Outcome:
    """Run one world to its end."""
    traces: list[Trace] = []

    async def main(clock: VirtualClock) -> None:
        asyncio.get_running_loop().set_exception_handler(_ignore_crashes)
        trace = Trace(clock, n_kept)
        traces.append(trace)
        async with asyncio.timeout(_MAX_VIRTUAL_S):
            await _live(World(plan, clock, trace))

    failure = None
    logging.disable(logging.CRITICAL)
    gc.disable()  # what is in a cycle is little and goes with the next run
    try:
        run_virtual(main)
    except Exception as error:  # noqa: BLE001 - whatever breaks a run is its outcome
        first = first_error(error) if isinstance(error, BaseExceptionGroup) else error
        failure = f"{type(first).__name__}: {first}{_where(first)}"
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
    trace = traces[0]
    return Outcome(plan, failure, trace.counts, trace.lines())


async def _live(world: World) -> None:
    recovery = SaidRestore() if world.plan.is_said else RestoredCopy()
    more = [partial(restore_some_time, recovery)] if world.plan.is_restored else []
    await world.be_busy(*more)
    world.heal()
    await world.ground.clock.sleep(1.0)
    if world.plan.is_restored:
        await recovery.finish(world)
    else:
        await check_all(world)
    world.ground.trace.count("blocks", world.witness.n_blocks)


def _where(error: BaseException) -> str:
    """Return where an error of the code comes from; a broken rule says it all itself."""
    if isinstance(error, AssertionError) and str(error):
        return ""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return "".join(f", {Path(one.filename).name}:{one.lineno} {one.name}" for one in frames)


def _ignore_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Let tasks of a dead process end with it; nobody asks what became of them."""
    if not isinstance(context.get("exception"), SimulatedCrash):
        loop.default_exception_handler(context)
