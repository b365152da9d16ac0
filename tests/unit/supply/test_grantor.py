"""One key for slaves at three KMEs: the same bytes for each of them once, or nothing at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kme.errors import (
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RequestError,
    UnavailableError,
)
from kme.ids import KmeId, SaeId
from kme.supply.ports import Key
from kme.supply.supply import SupplyLimits
from supply_pair import ALICE, BOB, CAROL, EVE, A, B
from three_kmes import DAVE, FRANK, HOMES, LIFETIME_S, C, ThreeKmes


def run(scenario: Callable[[ThreeKmes], Awaitable[None]], limits: Any = None) -> None:
    async def main() -> None:
        kmes = ThreeKmes() if limits is None else ThreeKmes(limits)
        await kmes.open()
        await scenario(kmes)

    asyncio.run(main())


async def issue(kmes: ThreeKmes, slave: SaeId, *more: SaeId, n_keys: int = 1) -> list[Key]:
    return await kmes.supplies[A].new_keys(ALICE, slave, n_keys, 33, more)


async def draw(kmes: ThreeKmes, slave: SaeId, keys: list[Key], master: SaeId = ALICE) -> list[Key]:
    ids = [key.key_id for key in keys]
    return await kmes.supplies[HOMES[slave]].keys_by_id(master, slave, ids)


async def left(kmes: ThreeKmes, kme: KmeId, keys: list[Key]) -> int:
    """Return how many of these keys a KME keeps grants for."""
    return len(await kmes.stores[kme].grants(A, [key.key_id for key in keys]))


@pytest.mark.parametrize("slave", [BOB, DAVE])
def test_every_slave_that_is_named_gets_the_same_keys_once(slave: SaeId) -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        others = [sae for sae in (CAROL, BOB, EVE, DAVE, FRANK) if sae != slave]
        keys = await issue(kmes, slave, *others, n_keys=5)
        for some in (keys[1:], keys[:1]):
            for sae in (*others, slave):
                assert await draw(kmes, sae, some) == some
                with pytest.raises(KeyNotFoundError):
                    await draw(kmes, sae, keys)

    run(scenario)


def test_a_slave_that_is_not_named_gets_nothing() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        keys = await issue(kmes, BOB, DAVE)
        with pytest.raises(NotEntitledError):
            await draw(kmes, FRANK, keys)
        with pytest.raises(NotEntitledError):
            await draw(kmes, EVE, keys)
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, CAROL, keys)
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, DAVE, keys, master=CAROL)
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, DAVE, keys, master=BOB)
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, ALICE, keys)
        assert await draw(kmes, DAVE, keys) == keys

    run(scenario)


def test_keys_of_blocks_and_granted_keys_come_in_one_answer_in_order() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        granted = await issue(kmes, BOB, EVE, n_keys=2)
        own = await issue(kmes, EVE, n_keys=2)
        mixed = [granted[1], own[0], granted[0], own[1]]
        assert await draw(kmes, EVE, mixed) == mixed

    run(scenario)


def test_one_id_that_is_refused_leaves_all_others_as_they_were() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        granted, own = await issue(kmes, BOB, EVE, n_keys=2), await issue(kmes, EVE, n_keys=2)
        assert await draw(kmes, EVE, [granted[0]]) == [granted[0]]
        assert await draw(kmes, EVE, [own[0]]) == [own[0]]
        for spent in (granted[0], own[0]):
            with pytest.raises(KeyNotFoundError):
                await draw(kmes, EVE, [granted[1], spent, own[1]])
        assert await draw(kmes, EVE, [granted[1], own[1]]) == [granted[1], own[1]]

    run(scenario)


@pytest.mark.parametrize(
    ("slave", "more", "says"),
    [
        (BOB, (DAVE, DAVE), "named twice"),
        (BOB, (DAVE, BOB), "named twice"),
        (BOB, (ALICE,), "the master SAE"),
        (BOB, (SaeId("nobody"),), "'nobody' is not registered"),
        (BOB, tuple(SaeId(f"sae-{n}") for n in range(65)), "at most 64"),
    ],
)
def test_slaves_that_make_no_sense_are_refused_before_anything_is_cut(
    slave: SaeId, more: tuple[SaeId, ...], says: str
) -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        with pytest.raises(RequestError, match=says):
            await issue(kmes, slave, *more)
        assert kmes.scripts[A].count("claim") == 0

    run(scenario)


def test_a_kme_that_is_not_alive_or_not_connected_is_told_before_anything_is_cut() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        kmes.liveness[A].is_alive = False
        with pytest.raises(PeerUnavailableError):
            await issue(kmes, BOB, DAVE)
        kmes.liveness[A].is_alive = True
        del kmes.links[A, C]
        supply = kmes.start(A, "worker-2")
        await supply.open()
        with pytest.raises(PeerUnavailableError, match="kme-c is not connected"):
            await supply.new_keys(ALICE, BOB, 1, 32, [DAVE])
        assert kmes.scripts[A].count("claim") == 0

    run(scenario)


@pytest.mark.parametrize("how", ["refuses", "loses_answer", "is down"])
def test_if_one_kme_does_not_take_its_grants_no_key_is_given(how: str) -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        link = kmes.links[A, C]
        link.refuses = RequestError("no") if how == "refuses" else None
        link.loses_answer = how == "loses_answer"
        grantee = kmes.grantees[C]
        if how == "is down":
            del kmes.grantees[C]
        with pytest.raises(PeerUnavailableError, match=r"did not take.*no key is given.*burnt"):
            await issue(kmes, BOB, EVE, CAROL, DAVE)
        kmes.grantees[C] = grantee
        link.refuses, link.loses_answer = None, False
        keys = await issue(kmes, BOB, EVE, CAROL, DAVE)
        for sae in (BOB, EVE, CAROL, DAVE):
            assert await draw(kmes, sae, keys) == keys
        # What the other KME kept of the first try is under an id that nobody knows.
        (lost,) = [delivery.keys[0].key_id for delivery in kmes.links[A, B].carried[:1]]
        assert await kmes.stores[B].grants(A, [lost])
        assert await kmes.stores[A].grants(A, [lost]) == {}

    run(scenario)


@pytest.mark.parametrize("step", ["before keep_grants", "after keep_grants"])
@pytest.mark.parametrize("kme", [A, C])
def test_a_store_that_fails_burns_the_keys(step: str, kme: KmeId) -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        kmes.scripts[kme].fail(step)
        with pytest.raises(UnavailableError, match=r"no key is given.*burnt"):
            await issue(kmes, BOB, DAVE, CAROL)
        keys = await issue(kmes, BOB, DAVE, CAROL)
        assert await draw(kmes, DAVE, keys) == keys

    run(scenario)


def test_too_few_pads_cost_no_key_of_the_first_slave() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        await kmes.supplies[A].new_keys(ALICE, DAVE, 1, 4032)
        before = (await kmes.supplies[A].stock(ALICE, BOB)).free_bytes
        with pytest.raises(OutOfKeysError):
            await issue(kmes, BOB, DAVE)
        assert (await kmes.supplies[A].stock(ALICE, BOB)).free_bytes == before

    run(scenario)


def test_the_bytes_never_travel_unmasked_and_no_pad_is_used_twice() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        keys = [key for _ in range(6) for key in await issue(kmes, BOB, DAVE, FRANK, n_keys=3)]
        told = [key for delivery in kmes.links[A, C].carried for key in delivery.keys]
        assert [key.key_id for key in told] == [key.key_id for key in keys]
        assert len({key.pad_id for key in told}) == len({key.masked for key in told}) == 18
        for key, hidden in zip(keys, told, strict=True):
            assert key.key.reveal() != hidden.masked
        assert len(kmes.links[A, C].carried) == 6
        assert kmes.links[A, B].carried == []

    run(scenario)


@pytest.mark.parametrize("sae", [CAROL, DAVE])
def test_grants_end_with_the_lifetime(sae: SaeId) -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        first, second = await issue(kmes, BOB, sae), await issue(kmes, BOB, sae)
        kmes.clock.advance(LIFETIME_S - 1)
        assert await draw(kmes, sae, first) == first
        kmes.clock.advance(1)
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, sae, second)
        store = kmes.stores[HOMES[sae]]
        assert await store.purge_grants(kmes.clock.now_s(), 10) == 2
        assert await left(kmes, HOMES[sae], first + second) == 0

    run(scenario)


def test_grants_survive_the_death_of_the_kme_that_keeps_them() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        keys = await issue(kmes, BOB, DAVE, CAROL)
        for kme in (A, C):
            kmes.restart(kme)
            await kmes.supplies[kme].open()
        for sae in (DAVE, CAROL, BOB):
            assert await draw(kmes, sae, keys) == keys
        kmes.restart(C)
        await kmes.supplies[C].open()
        with pytest.raises(KeyNotFoundError):
            await draw(kmes, DAVE, keys)

    run(scenario)


def test_keys_of_two_saes_of_one_kme_are_granted_too() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        keys = await issue(kmes, CAROL, DAVE, BOB, n_keys=2)
        for sae in (DAVE, CAROL, BOB):
            assert await draw(kmes, sae, keys) == keys
            with pytest.raises(KmeError):
                await draw(kmes, sae, keys)

    run(scenario, SupplyLimits(local_pairs=True))


def test_many_large_keys_go_in_several_deliveries() -> None:
    async def scenario(kmes: ThreeKmes) -> None:
        for number in range(4):
            await kmes.add(A, C if number % 2 else B, 1 << 16)
        keys = await kmes.supplies[A].new_keys(ALICE, BOB, 14, 8192 - 64, [DAVE])
        assert [len(delivery.keys) for delivery in kmes.links[A, C].carried] == [12, 2]
        assert await draw(kmes, DAVE, keys) == keys

    run(scenario)
