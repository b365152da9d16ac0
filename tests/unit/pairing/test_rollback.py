import asyncio
import random
from functools import partial

import pytest

from kme.errors import PeerUnavailableError, StoreUnavailableError
from kme.pairing.rollback import RollbackGuard
from kme.store.memory import MemoryStore
from kme.store.records import HeartbeatRecord, Incident, IncidentKind
from simulated_pair import ALICE_KME, BOB_KME, LINK, Chances, SimulatedKme, SimulatedPair, end_of
from simulation import LinkFaults, VirtualClock, run_virtual


def test_a_sound_pair_is_let_through() -> None:
    guard = RollbackGuard(end_of(ALICE_KME, MemoryStore(ALICE_KME), VirtualClock()))
    guard.require_none()
    guard.require_ours_sound()


def test_the_alarm_is_raised_once_and_the_first_reason_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(ALICE_KME)
        guard = RollbackGuard(end_of(ALICE_KME, store, clock))
        await guard.declare("the peer forgot", may_be_ours=False)
        guard.require_ours_sound()
        await guard.declare("we forgot", may_be_ours=True)
        for require in (guard.require_none, guard.require_ours_sound):
            with pytest.raises(PeerUnavailableError, match="the peer forgot"):
                require()
        alarm = Incident(BOB_KME, IncidentKind.ROLLED_BACK_PEER, clock.now_s(), "the peer forgot")
        assert await store.incidents(9) == [alarm]

    run_virtual(main)


def test_a_restore_that_is_not_agreed_closes_it_and_one_that_is_mends_a_roll_back() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(ALICE_KME)
        guard = RollbackGuard(end_of(ALICE_KME, store, clock))
        await guard.declare("we forgot", may_be_ours=True)
        guard.await_restore("wait for the peer")
        for require in (guard.require_none, guard.require_ours_sound):
            with pytest.raises(PeerUnavailableError, match="wait for the peer"):
                require()
        guard.lift()
        with pytest.raises(PeerUnavailableError, match="wait for the peer"):
            guard.require_none()
        guard.end_restore()
        guard.require_none()
        guard.require_ours_sound()
        await guard.declare("it forgot again", may_be_ours=False)
        assert len(await store.incidents(9)) == 2

    run_virtual(main)


def test_it_is_closed_even_if_the_alarm_cannot_be_kept_yet() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(ALICE_KME)
        guard = RollbackGuard(end_of(ALICE_KME, store, clock))
        record = store.record_incident

        async def refuse(incident: Incident) -> None:
            raise StoreUnavailableError("sealed")

        store.record_incident = refuse  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await guard.declare("the peer forgot", may_be_ours=False)
        with pytest.raises(PeerUnavailableError):
            guard.require_none()
        store.record_incident = record  # type: ignore[method-assign]
        await guard.declare("again", may_be_ours=False)
        assert len(await store.incidents(9)) == 1

    run_virtual(main)


async def restore_an_old_copy(clock: VirtualClock, seed: int) -> None:
    """Restore one KME to before a heartbeat that the other heard, in the midst of chaos."""
    rng = random.Random(seed)
    chances = Chances(
        LinkFaults(
            drop=rng.uniform(0, 0.2),
            lose_answer=rng.uniform(0, 0.2),
            duplicate=rng.uniform(0, 0.5),
            max_delay_s=rng.choice((0.01, 1.0)),
        ),
        max_pause_s=rng.choice((0.0, 0.05)),
        max_life_steps=rng.choice((300, None)),
    )
    pair = SimulatedPair(clock, seed, chances)
    restored = rng.choice(pair.both)
    pair.begin()
    for epoch in range(8):
        key = rng.randbytes(600)
        for kme in pair.both:
            await kme.ingest(LINK, epoch, key)
    await clock.sleep(rng.uniform(0, 20))
    backup = restored.store.backup()
    kept = await backup.heartbeat(restored.other.local)
    await pair.until(lambda: is_past(restored.other, kept))
    await clock.sleep(rng.uniform(0, 10))
    assert await alarms(pair) == set()
    restored.fuse.blow()
    restored.store = backup
    old = restored.pairing
    if rng.random() < 0.5:
        pair.heal()
    for tick in range(200):
        await clock.sleep(0.1)
        if restored.pairing is old or restored.fuse.is_blown:
            continue
        with pytest.raises(PeerUnavailableError):
            restored.pairing.require_heard_once(restored.other.local)
        if tick == 100:
            pair.heal()
    await pair.until(lambda: are_closed(pair))
    assert await alarms(pair) == {restored.local, restored.other.local}
    n_blocks = len(pair.witness.digests)
    await restored.other.ingest(LINK, 99, bytes(600))
    await clock.sleep(10)
    assert len(pair.witness.digests) == n_blocks
    await pair.end()


async def is_past(heard_by: SimulatedKme, kept: HeartbeatRecord) -> bool:
    """Return whether the other KME heard a heartbeat that the copy doesn't know of."""
    record = await heard_by.store.heartbeat(heard_by.other.local)
    return record.heard not in (kept.pending, kept.acknowledged)


async def are_closed(pair: SimulatedPair) -> bool:
    """Return whether both KMEs say that one of them was rolled back."""
    reasons = []
    for kme in pair.both:
        with pytest.raises(PeerUnavailableError) as raised:
            kme.pairing.require_alive(kme.other.local)
        reasons.append(raised.value.message)
    return all("until an operator acts" in reason for reason in reasons)


async def alarms(pair: SimulatedPair) -> set[str]:
    return {
        kme.local
        for kme in pair.both
        for incident in await kme.store.incidents(99)
        if incident.kind is IncidentKind.ROLLED_BACK_PEER
    }


@pytest.mark.parametrize("batch", range(4))
def test_a_restored_copy_past_a_heard_heartbeat_is_always_found_out(batch: int) -> None:
    for seed in range(15 * batch, 15 * (batch + 1)):
        run_virtual(partial(restore_an_old_copy, seed=seed))


def test_a_wiped_store_is_found_out() -> None:
    async def main(clock: VirtualClock) -> None:
        pair = SimulatedPair(clock, seed=1)
        pair.begin()
        await clock.sleep(5)
        pair.bob.fuse.blow()
        pair.bob.store = MemoryStore(BOB_KME)
        await clock.sleep(20)
        for kme in pair.both:
            with pytest.raises(PeerUnavailableError, match="KME kme-b"):
                kme.pairing.require_alive(kme.other.local)
            with pytest.raises(PeerUnavailableError):
                kme.pairing.require_heard_once(kme.other.local)
        assert await alarms(pair) == {ALICE_KME, BOB_KME}
        await pair.end()

    run_virtual(main)


def test_a_roll_back_is_seen_again_after_a_restart() -> None:
    async def main(clock: VirtualClock) -> None:
        pair = SimulatedPair(clock, seed=2)
        pair.begin()
        await clock.sleep(5)
        backup = pair.alice.store.backup()
        await clock.sleep(5)
        pair.alice.store = backup
        for _ in range(2):
            for kme in pair.both:
                kme.fuse.blow()
            await asyncio.sleep(10)
            with pytest.raises(PeerUnavailableError, match="older"):
                pair.alice.pairing.require_heard_once(BOB_KME)
            with pytest.raises(PeerUnavailableError, match="older"):
                pair.bob.pairing.require_alive(ALICE_KME)
        await pair.end()

    run_virtual(main)
