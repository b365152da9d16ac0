"""A KME that is restored from an older copy agrees with its peer, whatever fails meanwhile."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from kme.errors import KeyNotFoundError, PeerUnavailableError
from kme.ids import Epoch
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import IncidentKind
from simulated_pair import ALICE_KME, BOB_KME, LINK, Chances
from simulated_restore import RestorePair
from simulation import LinkFaults, VirtualClock, run_virtual

SIDES = ("alice", "bob")


def some_chances(rng: random.Random) -> Chances:
    """Return how bad the world is in one run."""
    return Chances(
        LinkFaults(
            drop=rng.uniform(0, 0.2),
            lose_answer=rng.uniform(0, 0.2),
            duplicate=rng.uniform(0, 0.5),
            max_delay_s=rng.choice((0.01, 1.0)),
        ),
        unavailable=rng.choice((0.0, 0.02)),
        max_pause_s=rng.choice((0.0, 0.05)),
        max_life_steps=rng.choice((60, 300, None)),
    )


async def restore_in_chaos(clock: VirtualClock, seed: int) -> None:
    """Restore KMEs again and again, one or both, and hold that nothing is used twice."""
    rng = random.Random(seed)
    pair = RestorePair(clock, seed, some_chances(rng))
    pair.begin()
    backups: list[list[MemoryStore]] = [[kme.store.backup()] for kme in pair.both]
    for _ in range(rng.randint(1, 4)):
        await clock.sleep(rng.uniform(0, 15))
        for kme, kept in zip(pair.both, backups, strict=True):
            kept.append(kme.store.backup())
        await clock.sleep(rng.uniform(0, 15))
        for side in rng.choice(((0,), (1,), (0, 1))):
            backup = rng.choice(backups[side]).backup()
            await pair.put_back(pair.both[side], backup)
            await clock.sleep(rng.choice((0.0, 1.0)))
    pair.heal()
    await pair.rest()
    await pair.until(pair.traffic.works)
    await pair.check_blocks()
    await pair.end()


@pytest.mark.parametrize("batch", range(6))
def test_nothing_is_used_twice_and_the_pair_comes_back(batch: int) -> None:
    for seed in range(20 * batch, 20 * (batch + 1)):
        run_virtual(partial(restore_in_chaos, seed=seed))
