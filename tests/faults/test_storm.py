"""Load on 32 connections while KMEs are killed and the link between them fails."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from cable import Cable
from cabled_pair import CabledPair
from faulty_pair import FaultyPair
from kme.pair import KME_IDS
from kme.units import GRANULE_BYTES
from pair_on_host import ALICE, BOB
from sae_load import KEY_BYTES
from store_audit import audit
from waiting import until

DURATION_S = float(os.environ.get("KME_FAULT_SECONDS", "20"))
KILLS_PER_STORM = 70
KILLS_WITHIN_S = 600.0
SEEDS = (1, 2, 3)


def check(pair: FaultyPair, lasted_s: float, back_s: float) -> None:
    """Hold the history and both stores against all that was promised."""
    load, faults, history = pair.load, pair.faults, pair.load.history
    assert load.surprises.words == []
    assert history.violations() == []
    found = audit(pair.host.pair, history, faults.fed_bytes)
    lost = history.n_unanswered * KEY_BYTES // GRANULE_BYTES
    sys.stdout.write(
        f"\n{lasted_s:.0f} s, back {back_s:.1f} s after the last fault, {faults.n_kills} kills"
        f" ({pair.processes.n_died_at_failpoint} at failpoints), {pair.link.n_switches} switches,"
        f" {len(history.given)} keys given, {len(history.asked)} calls for a key_ID,"
        f" {history.n_unanswered} keys unanswered, {found.n_blocks} blocks,"
        f" {found.n_burnt} granules burnt, {faults.n_open_granules} open at deaths"
        f" (most: {faults.max_open_granules})\n"
    )
    assert {key.master for key in history.given} == {ALICE, BOB}
    assert len(history.given) > 100, "there was no load to speak of"
    assert list(found.wrong) == []
    assert 0 <= found.n_burnt <= faults.n_open_granules + lost


async def storm(pair: FaultyPair, *, has_kills: bool, has_bad_link: bool) -> None:
    begun_s = asyncio.get_running_loop().time()
    async with pair.running():
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            if has_kills:
                for kme in KME_IDS:
                    tasks.create_task(pair.kill_now_and_then(kme, over))
            if has_bad_link:
                tasks.create_task(pair.switch_now_and_then(over))
            await asyncio.sleep(DURATION_S)
            if has_kills:
                await until(lambda: pair.faults.n_kills >= KILLS_PER_STORM, KILLS_WITHIN_S)
            over.set()
        lasted_s = asyncio.get_running_loop().time() - begun_s
        back_s = await pair.is_back()
    check(pair, lasted_s, back_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_and_a_bad_link_give_no_key_twice_and_no_disagreement(
    tmp_path: Path, seed: int
) -> None:
    asyncio.run(storm(FaultyPair(tmp_path / "pair", seed), has_kills=True, has_bad_link=True))


def test_kills_alone(tmp_path: Path) -> None:
    asyncio.run(storm(FaultyPair(tmp_path / "pair", 4), has_kills=True, has_bad_link=False))


def test_a_bad_link_alone_burns_nothing(tmp_path: Path) -> None:
    asyncio.run(storm(FaultyPair(tmp_path / "pair", 5), has_kills=False, has_bad_link=True))


def test_a_network_that_is_parted_and_loses_packets(tmp_path: Path) -> None:
    pair = CabledPair(tmp_path / "pair", 6, Cable(0))
    asyncio.run(storm(pair, has_kills=True, has_bad_link=True))


def test_a_network_that_is_parted_burns_nothing(tmp_path: Path) -> None:
    pair = CabledPair(tmp_path / "pair", 7, Cable(1))
    asyncio.run(storm(pair, has_kills=False, has_bad_link=True))
