"""Keys of several slaves, and of two SAEs of one KME, between real processes over mutual TLS."""

import asyncio
import time
from pathlib import Path

import pytest

from kme.errors import KeyNotFoundError, KmeError, NotEntitledError, RequestError
from kme.etsi014.client import DeliveredKey
from kme.pair import KME_IDS
from pair_on_host import ALICE, BOB, EVE, QUICK, PairOnHost, running_pair


async def _for_both(pair: PairOnHost) -> list[DeliveredKey]:
    """Ask for keys for two slaves until there are enough for them and their pads."""
    deadline_s = time.monotonic() + 20
    while True:
        pair.source.feed()
        try:
            return await pair.clients[ALICE].enc_keys(BOB, 3, more_slaves=[EVE])
        except KmeError:
            assert time.monotonic() < deadline_s, "no keys for two slaves"
            await asyncio.sleep(0.2)


async def _several_slaves(directory: Path) -> None:
    async with running_pair(directory) as pair:
        await pair.exchange_until_both_work()
        first, second = await _for_both(pair), await _for_both(pair)
        ids = [key.key_id for key in first]
        for slave in (EVE, BOB):
            assert await pair.clients[slave].dec_keys(ALICE, ids) == first
            with pytest.raises(KeyNotFoundError):
                await pair.clients[slave].dec_keys(ALICE, ids)
        pair.kill(KME_IDS[1])
        pair.start(KME_IDS[1])
        await pair.exchange_until_both_work()
        ids = [key.key_id for key in second]
        assert await pair.clients[EVE].dec_keys(ALICE, ids) == second
        with pytest.raises(KeyNotFoundError):
            await pair.clients[EVE].dec_keys(ALICE, ids)
        assert await pair.clients[BOB].dec_keys(ALICE, ids) == second
        with pytest.raises(RequestError, match=r"offer\.local_pairs"):
            await pair.clients[BOB].enc_keys(EVE)
        for kme in KME_IDS:
            assert pair.stop(kme) == 0


async def _one_kme(directory: Path) -> None:
    settings = {**QUICK, "offer": {"local_pairs": True}}
    async with running_pair(directory, settings) as pair:
        await pair.exchange_until_both_work()
        status = await pair.clients[BOB].status(EVE)
        assert status.source_kme_id == status.target_kme_id == KME_IDS[1]
        assert status.status_extension == {"kme_source": "random"}
        assert status.stored_key_count > 1000
        keys = await pair.clients[BOB].enc_keys(EVE, 100)
        ids = [key.key_id for key in keys]
        with pytest.raises(NotEntitledError):
            await pair.clients[BOB].dec_keys(BOB, ids[:1])
        pair.kill(KME_IDS[1])
        pair.start(KME_IDS[1])
        await pair.exchange_until_both_work()
        assert await pair.clients[EVE].dec_keys(BOB, ids) == keys
        with pytest.raises(KeyNotFoundError):
            await pair.clients[EVE].dec_keys(BOB, ids[-1:])


def test_every_slave_gets_the_keys_once_also_after_a_kill(tmp_path: Path) -> None:
    asyncio.run(_several_slaves(tmp_path / "pair"))


def test_two_saes_of_one_kme_share_random_keys_where_that_is_allowed(tmp_path: Path) -> None:
    asyncio.run(_one_kme(tmp_path / "pair"))
