"""Load on 32 connections while workers, whole rest services and both Vaults are killed."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from histories import Given
from kme.ids import KmeId
from kme.units import GRANULE_BYTES
from pair_on_host import ALICE, BOB
from sae_load import KEY_BYTES, MAX_KEYS
from vault_audit import audit
from vault_pair import BACK_S, VaultPair, Victim
from waiting import until

DURATION_S = float(os.environ.get("KME_FAULT_SECONDS", "20"))
KILLS_PER_STORM = 20
KILLS_WITHIN_S = 600.0
SEEDS = (1, 2)


async def check(pair: VaultPair, lasted_s: float, back_s: float) -> None:
    """Hold the history and both stores against all that was promised."""
    history, faults = pair.load.history, pair.faults
    given: dict[KmeId, list[Given]] = {kme.place.id: [] for kme in pair.kmes}
    for key in history.given:
        given[pair.pair.saes[key.master]].append(key)
    both = [kme.kept for kme in pair.kmes if kme.kept is not None]
    found = await audit(both, given, history, faults.fed_bytes)
    lost = (pair.n_lost * MAX_KEYS + history.n_unanswered) * KEY_BYTES // GRANULE_BYTES
    kills = ", ".join(f"{faults.kills[victim]} {victim.value}" for victim in Victim)
    sys.stdout.write(
        f"\n{lasted_s:.0f} s, back {back_s:.1f} s after the last fault, {faults.n_kills} kills"
        f" ({kills}), {pair.link.n_switches} switches, {len(history.given)} keys given,"
        f" {len(history.asked)} calls for a key_ID, {pair.n_lost} requests lost,"
        f" {found.n_blocks} blocks, {found.n_claimed} granules claimed, {found.n_burnt} burnt"
        f" by {faults.n_workers_died} workers that died (they held {faults.may_be_burnt})\n"
    )
    assert pair.load.surprises.words == []
    assert history.violations() == []
    assert {key.master for key in history.given} == {ALICE, BOB}
    assert len(history.given) > 100, "there was no load to speak of"
    assert list(found.wrong) == []
    assert 0 <= found.n_burnt <= faults.may_be_burnt + lost
    for kme in pair.kmes:
        assert "Traceback" not in kme.rest.log.read_text()


def has_killed_enough(pair: VaultPair) -> bool:
    kills = pair.faults.kills
    return kills.total() >= KILLS_PER_STORM and all(kills[victim] for victim in Victim)


async def storm(directory: Path, seed: int, *, has_bad_link: bool) -> None:
    pair = VaultPair(directory, seed)
    clock = asyncio.get_running_loop()
    async with pair.running():
        begun_s = clock.time()
        async with pair.loaded():
            over = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                for kme in pair.kmes:
                    tasks.create_task(pair.kill_rest_now_and_then(kme, over))
                    tasks.create_task(pair.kill_vault_now_and_then(kme, over))
                if has_bad_link:
                    tasks.create_task(pair.link.switch_now_and_then(pair.rng(), over))
                await asyncio.sleep(DURATION_S)
                await until(lambda: has_killed_enough(pair), KILLS_WITHIN_S)
                over.set()
            lasted_s = clock.time() - begun_s
            back_s = await pair.load.is_back(BACK_S)
        await check(pair, lasted_s, back_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_and_a_bad_link_give_no_key_twice_and_no_disagreement(
    tmp_path: Path, seed: int
) -> None:
    asyncio.run(storm(tmp_path / "pair", seed, has_bad_link=True))


def test_kills_alone(tmp_path: Path) -> None:
    asyncio.run(storm(tmp_path / "pair", 3, has_bad_link=False))
