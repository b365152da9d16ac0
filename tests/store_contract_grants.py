"""What every store promises about keys granted to further slaves (`kme.store.ports.GrantStore`).

Used as `store_contract`: a backend's test module derives from `GrantContract`.
"""

import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from kme.errors import InputError, KeyNotFoundError, KmeError, OverlapError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.grants import Grant, KeptGrant
from kme.store.ports import Store
from kme.store.records import GranuleRange
from store_contract import A, B, Backend, add_block, in_loop, opened, some_key

ALICE, BOB, EVE = SaeId("alice"), SaeId("bob/2"), SaeId("eve")
DUE_S = 2_000_000_000.5


def key_id(serial: int = 1, n_bytes: int = 32) -> KeyId:
    return KeyId(7 + serial // 8, 8 + 4 * serial, n_bytes, 11 + serial)


def pad(serial: int = 1) -> GranuleRange:
    return GranuleRange(1, 8 + 4 * serial, 12 + 4 * serial)


def grant(
    serial: int = 1,
    *slaves: SaeId,
    key: int | None = None,
    due_s: float = DUE_S,
    drawn: GranuleRange | None = None,
) -> Grant:
    seed = serial if key is None else key
    proof = random.Random(f"{serial} {seed} {slaves}").randbytes(32)
    named = slaves or (BOB,)
    return Grant(
        key_id(serial), ALICE, named, some_key(32, seed), proof, due_s, drawn or pad(serial)
    )


async def with_pads(store: Store) -> None:
    await add_block(store, 1, 2048, owner=B)


async def purge_all(store: Store, now_s: float) -> int:
    return sum([await store.purge_grants(now_s, 3) for _ in range(12)])


async def waiting_of(store: Store, *key_ids: KeyId, peer: KmeId = B) -> list[Sequence[SaeId]]:
    found = await store.grants(peer, key_ids)
    return [found[one].waiting for one in key_ids]


async def take(store: Store, slave: SaeId, *serials: int) -> None:
    await store.take_grants(B, slave, [key_id(serial) for serial in serials])


class GrantContract:
    """Granted keys are kept once, with their pads drawn, and taken once by each slave."""

    @in_loop
    async def test_a_grant_is_kept_with_its_pad_drawn_and_survives_a_crash(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await with_pads(store)
        await store.keep_grants(B, [grant(1, EVE, BOB), grant(2)])
        store = await backend.crash(store)
        found = await store.grants(B, [key_id(2), key_id(1), key_id(3)])
        expected = KeptGrant.of(grant(1, EVE, BOB))
        assert found == {key_id(2): KeptGrant.of(grant(2)), key_id(1): expected}
        assert expected.waiting == expected.slaves == (BOB, EVE)
        with pytest.raises(KeyNotFoundError):
            await store.draw(B, [pad(1)])
        assert await store.grants(A, [key_id(1)]) == {}
        await store.close()

    @in_loop
    async def test_the_same_grant_again_changes_nothing(self, backend: Backend) -> None:
        store = await backend.open()
        await with_pads(store)
        await store.keep_grants(B, [grant(1, BOB, EVE)])
        await take(store, BOB, 1)
        store = await backend.reopen(store)
        await store.keep_grants(B, [grant(1, BOB, EVE, due_s=DUE_S + 9)])
        assert await waiting_of(store, key_id(1)) == [(EVE,)]
        await take(store, EVE, 1)
        await store.keep_grants(B, [grant(1, BOB, EVE), grant(2)])
        kept = (await store.grants(B, [key_id(1)]))[key_id(1)]
        assert (kept.waiting, kept.key, kept.due_unix_s) == ((), None, DUE_S)
        assert await waiting_of(store, key_id(2)) == [(BOB,)]
        await store.close()

    @in_loop
    async def test_another_grant_under_a_key_id_is_refused_and_leaves_no_trace(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            await store.keep_grants(B, [grant(1)])
            for other in (grant(1, key=5, drawn=pad(5)), grant(1, BOB, EVE, drawn=pad(5))):
                with pytest.raises(InputError):
                    await store.keep_grants(B, [grant(2), other])
            with pytest.raises(InputError):
                await store.keep_grants(B, [grant(2), grant(2, EVE, drawn=pad(5))])
            assert await store.grants(B, [key_id(2)]) == {}
            assert await store.grants(B, [key_id(1)]) == {key_id(1): KeptGrant.of(grant(1))}
            await store.draw(B, [pad(2), pad(5)])

    @in_loop
    async def test_without_a_pad_to_draw_nothing_is_kept(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            await store.draw(B, [pad(2)])
            wrong = (
                pad(2),
                GranuleRange(1, 17, 21),  # partly drawn
                GranuleRange(1, 250, 257),  # behind the end
                GranuleRange(2, 8, 12),  # no such block
                pad(1),  # twice
            )
            for drawn in wrong:
                with pytest.raises(KeyNotFoundError) as refusal:
                    await store.keep_grants(B, [grant(1), grant(3, drawn=drawn)])
                assert isinstance(refusal.value, OverlapError) == (drawn in (wrong[1], wrong[4]))
                assert await store.grants(B, [key_id(1), key_id(3)]) == {}
            await store.raise_floors(B, draw=1)
            with pytest.raises(KeyNotFoundError):
                await store.keep_grants(B, [grant(1)])

    @in_loop
    async def test_a_grant_that_never_left_this_kme_needs_no_pad(self, backend: Backend) -> None:
        async with opened(backend) as store:
            bare = Grant(key_id(), ALICE, (EVE,), some_key(32), bytes(32), DUE_S)
            await store.keep_grants(A, [bare])
            assert await store.grants(A, [key_id()]) == {key_id(): KeptGrant.of(bare)}
            assert await store.grants(B, [key_id()]) == {}
            await store.keep_grants(A, [])

    @in_loop
    async def test_each_slave_takes_a_grant_once(self, backend: Backend) -> None:
        store = await backend.open()
        await with_pads(store)
        await store.keep_grants(B, [grant(1, BOB, EVE), grant(2, BOB)])
        for slave, serials in ((ALICE, (1,)), (EVE, (1, 2)), (BOB, (1, 3))):
            with pytest.raises(KeyNotFoundError):
                await take(store, slave, *serials)
        with pytest.raises(InputError):
            await take(store, BOB, 1, 1)
        assert await waiting_of(store, key_id(1), key_id(2)) == [(BOB, EVE), (BOB,)]
        await take(store, BOB, 2, 1)
        store = await backend.crash(store)
        for serial in (1, 2):
            with pytest.raises(KeyNotFoundError):
                await take(store, BOB, serial)
        left = (await store.grants(B, [key_id(1)]))[key_id(1)]
        assert left.key == some_key(32, 1)
        with pytest.raises(KeyNotFoundError):
            await store.take_grants(A, EVE, [key_id(1)])
        await take(store, EVE, 1)
        assert await waiting_of(store, key_id(1), key_id(2)) == [(), ()]
        await store.close()

    @in_loop
    async def test_of_several_who_take_at_once_one_succeeds(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            await store.keep_grants(B, [grant(1, BOB, EVE)])
            outcomes = await asyncio.gather(
                *(take(store, slave, 1) for slave in (BOB, EVE, BOB, EVE, BOB)),
                return_exceptions=True,
            )
            assert sum(outcome is None for outcome in outcomes) == 2
            assert all(isinstance(one, KeyNotFoundError) for one in outcomes if one is not None)

    @in_loop
    async def test_of_several_other_grants_at_once_one_is_kept(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            outcomes = await asyncio.gather(
                *(store.keep_grants(B, [grant(1, key=n, drawn=pad(n))]) for n in range(5)),
                return_exceptions=True,
            )
            assert [outcome for outcome in outcomes if not isinstance(outcome, KmeError)] == [None]
            kept = (await store.grants(B, [key_id(1)]))[key_id(1)]
            assert kept == KeptGrant.of(grant(1, key=outcomes.index(None)))

    @in_loop
    async def test_grants_whose_time_is_over_are_purged_and_never_come_back(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await with_pads(store)
        early = [grant(serial, due_s=DUE_S - serial) for serial in range(10)]
        await store.keep_grants(B, [*early, grant(10, BOB, EVE, due_s=DUE_S - 10), grant(11)])
        await take(store, BOB, 3, 4)
        assert await purge_all(store, DUE_S - 11) == 0
        assert await store.purge_grants(math.inf, 0) == 0
        assert await purge_all(store, DUE_S - 0.5) == 10
        store = await backend.crash(store)
        left = await store.grants(B, [key_id(serial) for serial in range(12)])
        assert list(left) == [key_id(0), key_id(11)]
        with pytest.raises(KeyNotFoundError):
            await take(store, BOB, 5)
        for again in (*early[1:], grant(10, BOB, EVE)):
            with pytest.raises(KeyNotFoundError):
                await store.keep_grants(B, [again])
        assert await purge_all(store, math.inf) == 2
        assert await store.grants(B, [key_id(0), key_id(11)]) == {}
        await store.close()

    @in_loop
    async def test_one_call_purges_no_more_than_it_is_told(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            await store.keep_grants(B, [grant(serial) for serial in range(20)])
            assert await store.purge_grants(DUE_S, 8) == 8
            assert await store.purge_grants(DUE_S, 8) == 8
            assert await purge_all(store, DUE_S) == 4

    @in_loop
    async def test_what_is_returned_is_the_callers_own(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await with_pads(store)
            given = grant(1)
            await store.keep_grants(B, [given])
            given.key.wipe()
            found = (await store.grants(B, [key_id(1)]))[key_id(1)]
            assert found.key is not None
            found.key.wipe()
            assert (await store.grants(B, [key_id(1)]))[key_id(1)].key == some_key(32, 1)

    @in_loop
    async def test_a_key_of_any_length_is_kept(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for serial, n_bytes in enumerate((1, 33, 8192)):
                key = some_key(n_bytes, 9)
                bare = Grant(key_id(serial, n_bytes), ALICE, (BOB,), key, bytes(32), DUE_S)
                await store.keep_grants(A, [bare])
                kept = (await store.grants(A, [bare.key_id]))[bare.key_id]
                assert kept.key == Secret(key.reveal())
