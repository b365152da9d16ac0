"""A KME is backed up, used, killed and restored: nothing comes twice, promises hold, keys flow."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kme.errors import KmeError
from kme.ids import KmeId, SaeId
from kme.pair import KME_IDS
from pair_on_host import PairOnHost, running_pair

_BACK_S = 15.0


def command(pair: PairOnHost, kme: KmeId, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an operator's command for a KME that is stopped."""
    [place] = [place for place in pair.pair.kmes if place.id == kme]
    return subprocess.run(
        [sys.executable, "-m", "kme", words[0], "--config", str(place.config), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def draw_all(pair: PairOnHost, n_keys: int) -> None:
    """Have both masters given keys, and both slaves draw half of them."""
    for (master, slave), handed in pair.handed.items():
        keys = await pair.clients[master].enc_keys(slave, n_keys)
        handed.take_new(keys)
        drawn = [key.key_id for key in keys[: n_keys // 2]]
        handed.take_drawn(await pair.clients[slave].dec_keys(master, drawn))


async def is_refused(pair: PairOnHost, way: tuple[SaeId, SaeId], key_id: str) -> bool:
    master, slave = way
    try:
        await pair.clients[slave].dec_keys(master, [key_id])
    except KmeError:
        return True
    return False


async def restore_one(directory: Path, victim: KmeId, *, in_place: bool) -> None:
    async with running_pair(directory) as pair:
        await pair.exchange_until_both_work()
        for _ in range(4):
            pair.source.feed()
        await asyncio.sleep(2)
        await draw_all(pair, 4)
        running = command(pair, victim, "backup", "--out", str(directory / "copy.db"))
        assert running.returncode == 1
        assert "stop it first" in running.stderr
        assert pair.stop(victim) == 0
        done = command(pair, victim, "backup", "--out", str(directory / "copy.db"))
        assert done.returncode == 0, done.stderr
        pair.start(victim)
        await pair.exchange_until_both_work()
        await draw_all(pair, 8)
        pair.kill(victim)
        before = {way: (list(had.to_slave), had.open_ids) for way, had in pair.handed.items()}
        if in_place:
            # As a machine that was put back to a snapshot: nobody told the store.
            [place] = [place for place in pair.pair.kmes if place.id == victim]
            store = place.folder / "store.db"
            for suffix in ("", "-wal"):
                store.with_name(store.name + suffix).unlink(missing_ok=True)
            store.write_bytes((directory / "copy.db").read_bytes())
            done = command(pair, victim, "restore", "--in-place")
        else:
            done = command(pair, victim, "restore", "--from", str(directory / "copy.db"))
        assert done.returncode == 0, done.stderr
        pair.start(victim)
        started_s = time.monotonic()
        await pair.exchange_until_both_work(_BACK_S)
        assert time.monotonic() - started_s < _BACK_S
        for (master, slave), handed in pair.handed.items():
            home = pair.pair.saes[slave]
            delivered, open_ids = before[master, slave]
            assert open_ids
            for key_id in delivered:
                assert await is_refused(pair, (master, slave), key_id), "delivered twice"
            if home == victim:
                # What its SAEs had not drawn is burnt: it cannot know what they had.
                for key_id in open_ids:
                    assert await is_refused(pair, (master, slave), key_id)
            else:
                handed.take_drawn(await pair.clients[slave].dec_keys(master, open_ids))
        pair.check_no_byte_was_given_twice()
        for kme in KME_IDS:
            assert pair.stop(kme) == 0


@pytest.mark.parametrize(
    ("victim", "in_place"), [(KME_IDS[0], False), (KME_IDS[1], False), (KME_IDS[1], True)]
)
def test_a_restored_kme_gives_nothing_twice_and_comes_back(
    tmp_path: Path, victim: KmeId, in_place: bool
) -> None:
    asyncio.run(restore_one(tmp_path / "pair", victim, in_place=in_place))
