"""What a KME refuses of what a peer hands over for further slaves: an attack for each rule."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from kme.errors import (
    InputError,
    KeyNotFoundError,
    KmeError,
    OverlapError,
    PeerUnavailableError,
    RequestError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.store.records import GranuleRange, IncidentKind
from kme.supply.grants import Delivery, MaskedKey
from supply_pair import ALICE, BOB, CAROL, EVE, A, B
from three_kmes import DAVE, FRANK, C, ThreeKmes


class Scene:
    """A delivery from A to C as it went, and the same altered."""

    def __init__(self, kmes: ThreeKmes, delivery: Delivery, key_id: KeyId) -> None:
        self.kmes = kmes
        self.delivery = delivery
        self.key_id = key_id

    @property
    def key(self) -> MaskedKey:
        return self.delivery.keys[0]

    async def send(self, delivery: Delivery, sender: KmeId = A) -> None:
        await self.kmes.grantees[C].on_delivery(sender, delivery)

    async def repeat(self) -> None:
        await self.send(self.delivery)

    def with_key(self, **changes: object) -> Delivery:
        return replace(self.delivery, keys=(replace(self.key, **changes),))  # type: ignore[arg-type]

    async def take(self, slave: SaeId = DAVE) -> None:
        await self.kmes.supplies[C].keys_by_id(ALICE, slave, [self.key_id])

    async def is_waiting(self, slave: SaeId = DAVE, peer: KmeId = A) -> bool:
        kept = await self.kmes.stores[C].grants(peer, [self.key_id])
        return self.key_id in kept and slave in kept[self.key_id].waiting


def run(scenario: Callable[[Scene], Awaitable[None]], *, is_kept: bool = True) -> None:
    """Run a scenario after a delivery that C has kept, or one that never arrived."""

    async def main() -> None:
        kmes = ThreeKmes()
        await kmes.open()
        link = kmes.links[A, C]
        if not is_kept:
            link.refuses = PeerUnavailableError("lost")
        try:
            await kmes.supplies[A].new_keys(ALICE, BOB, 1, 32, [DAVE])
        except PeerUnavailableError:
            assert not is_kept
        (delivery,) = link.carried
        await scenario(Scene(kmes, delivery, delivery.keys[0].key_id))

    asyncio.run(main())


def test_the_same_delivery_again_is_accepted_and_changes_nothing() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.repeat()
        await scene.take()
        await scene.repeat()
        with pytest.raises(KeyNotFoundError):
            await scene.take()

    run(scenario)


def test_a_delivery_repeated_after_its_grant_was_purged_does_not_bring_it_back() -> None:
    async def scenario(scene: Scene) -> None:
        store = scene.kmes.stores[C]
        assert await store.purge_grants(float("inf"), 9) == 1
        with pytest.raises(KeyNotFoundError):
            await scene.repeat()
        assert not await scene.is_waiting()

    run(scenario)


def test_a_kme_that_restarted_refuses_until_it_has_heard_the_peer() -> None:
    async def scenario(scene: Scene) -> None:
        scene.kmes.liveness[C].was_heard = False
        with pytest.raises(PeerUnavailableError):
            await scene.repeat()

    run(scenario, is_kept=False)


def test_other_bytes_or_slaves_under_the_same_key_id_are_refused() -> None:
    async def scenario(scene: Scene) -> None:
        others = (
            scene.with_key(masked=bytes(32)),
            replace(scene.delivery, slaves=(DAVE, FRANK)),
            replace(scene.delivery, slaves=(FRANK,)),
            replace(scene.delivery, master=CAROL),
        )
        for other in others:
            with pytest.raises((InputError, KeyNotFoundError)):
                await scene.send(other)
        assert await scene.is_waiting()
        assert not await scene.is_waiting(FRANK)
        fresh_pad = await pad_of(scene)
        for other in others:
            moved = replace(other, keys=(replace(other.keys[0], pad_id=fresh_pad),))
            with pytest.raises(InputError, match="another key"):
                await scene.send(moved)
        kept = await scene.kmes.stores[C].grants(A, [scene.key_id])
        assert kept[scene.key_id].slaves == (DAVE,)

    run(scenario)


async def pad_of(scene: Scene) -> KeyId:
    """Return a pad that was cut and not used."""
    link = scene.kmes.links[A, C]
    link.refuses = PeerUnavailableError("lost")
    with pytest.raises(PeerUnavailableError):
        await scene.kmes.supplies[A].new_keys(ALICE, BOB, 1, 32, [DAVE])
    link.refuses = None
    return link.carried[-1].keys[0].pad_id


@pytest.mark.parametrize(
    "delivery",
    [
        lambda scene: replace(scene.delivery, master=BOB),
        lambda scene: replace(scene.delivery, master=DAVE),
        lambda scene: replace(scene.delivery, master=SaeId("nobody")),
        lambda scene: replace(scene.delivery, slaves=(DAVE, EVE)),
        lambda scene: replace(scene.delivery, slaves=(SaeId("nobody"),)),
        lambda scene: replace(scene.delivery, slaves=(ALICE,)),
    ],
)
def test_masters_live_at_the_sender_and_slaves_here(
    delivery: Callable[[Scene], Delivery],
) -> None:
    async def scenario(scene: Scene) -> None:
        with pytest.raises(RequestError):
            await scene.send(delivery(scene))
        await scene.repeat()  # the pad is as it was
        assert await scene.is_waiting()

    run(scenario, is_kept=False)


def test_a_kme_that_is_not_the_masters_is_refused() -> None:
    async def scenario(scene: Scene) -> None:
        with pytest.raises(RequestError, match="does not live at the KME that grants"):
            await scene.send(scene.delivery, sender=B)
        with pytest.raises(KeyNotFoundError):  # nor with a master of its own: A's pad is not B's
            await scene.send(replace(scene.delivery, master=BOB), sender=B)
        assert not await scene.is_waiting(peer=B)

    run(scenario, is_kept=False)


async def _altered_tag(scene: Scene) -> KeyId:
    return replace(scene.key.pad_id, tag=scene.key.pad_id.tag ^ 1)


async def _another_place(scene: Scene) -> KeyId:
    return replace(scene.key.pad_id, offset_granules=scene.key.pad_id.offset_granules + 4)


async def _behind_the_block(scene: Scene) -> KeyId:
    return replace(scene.key.pad_id, offset_granules=8000)


async def _no_such_block(scene: Scene) -> KeyId:
    return replace(scene.key.pad_id, block_number=999)


async def _of_another_pair(scene: Scene) -> KeyId:
    kmes = scene.kmes
    kmes.links[A, B].refuses = PeerUnavailableError("lost")
    with pytest.raises(PeerUnavailableError):
        await kmes.supplies[A].new_keys(ALICE, DAVE, 1, 32, [BOB])
    return kmes.links[A, B].carried[-1].keys[0].pad_id


async def _of_the_other_direction(scene: Scene) -> KeyId:
    kmes = scene.kmes
    kmes.links[C, A].refuses = PeerUnavailableError("lost")
    with pytest.raises(PeerUnavailableError):
        await kmes.supplies[C].new_keys(DAVE, BOB, 1, 32, [ALICE])
    return kmes.links[C, A].carried[-1].keys[0].pad_id


async def _a_key_of_two_saes(scene: Scene) -> KeyId:
    (key,) = await scene.kmes.supplies[A].new_keys(ALICE, DAVE, 1, 32)
    return key.key_id


@pytest.mark.parametrize(
    "pad_id",
    [
        _altered_tag,
        _another_place,
        _behind_the_block,
        _no_such_block,
        _of_another_pair,
        _of_the_other_direction,
        _a_key_of_two_saes,
    ],
)
def test_what_is_no_pad_of_this_pair_is_refused(
    pad_id: Callable[[Scene], Awaitable[KeyId]],
) -> None:
    async def scenario(scene: Scene) -> None:
        with pytest.raises(KeyNotFoundError):
            await scene.send(scene.with_key(pad_id=await pad_id(scene)))
        assert not await scene.is_waiting()
        await scene.repeat()
        assert await scene.is_waiting()

    run(scenario, is_kept=False)


def test_a_pad_that_was_used_masks_no_second_key() -> None:
    async def scenario(scene: Scene) -> None:
        other = replace(scene.key_id, tag=5)
        with pytest.raises(KeyNotFoundError):
            await scene.send(scene.with_key(key_id=other))
        assert await scene.kmes.stores[C].grants(A, [other]) == {}

    run(scenario)


def test_a_pad_that_overlaps_a_used_one_raises_an_alarm() -> None:
    async def scenario(scene: Scene) -> None:
        store, pad = scene.kmes.stores[C], scene.key.pad_id
        start = pad.offset_granules
        await store.draw(A, [GranuleRange(pad.block_number, start, start + 1)])
        with pytest.raises(OverlapError):
            await scene.repeat()
        (alarm,) = await store.incidents(9)
        assert (alarm.peer, alarm.kind) == (A, IncidentKind.OVERLAPPING_DRAW)
        assert "alice" in alarm.details

    run(scenario, is_kept=False)


def test_no_sae_draws_a_pad() -> None:
    async def scenario(scene: Scene) -> None:
        for sae in (DAVE, FRANK):
            for master in (ALICE, CAROL):
                with pytest.raises(KmeError) as refusal:
                    await scene.kmes.supplies[C].keys_by_id(master, sae, [scene.key.pad_id])
                assert isinstance(refusal.value, KeyNotFoundError)
        await scene.repeat()
        assert await scene.is_waiting()

    run(scenario, is_kept=False)


def test_one_bad_key_of_a_delivery_keeps_all_others_out() -> None:
    async def scenario(scene: Scene) -> None:
        fresh = await pad_of(scene)
        wrong = MaskedKey(replace(scene.key_id, tag=5), replace(fresh, tag=1), bytes(32))
        with pytest.raises(KeyNotFoundError):
            await scene.send(replace(scene.delivery, keys=(scene.key, wrong)))
        assert not await scene.is_waiting()
        await scene.repeat()

    run(scenario, is_kept=False)
