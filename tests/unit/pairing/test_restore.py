"""A KME that is restored from an older copy agrees with its peer, whatever fails meanwhile."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from kme.errors import (
    IdentityError,
    KeyNotFoundError,
    PeerUnavailableError,
    StoreUnavailableError,
)
from kme.ids import Epoch, KmeId
from kme.pairing.heartbeat import random_token
from kme.pairing.pairing import Pairing
from kme.pairing.ports import RestoreChallenge, RestoreConsent, RestoreTerms
from kme.pairing.restore import OwnRestore
from kme.pairing.rollback import RollbackGuard
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import IncidentKind, Proposal, Verdict
from kme.store.restore import RestoreAgreement
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    Chances,
    ScriptedLink,
    SimulatedKme,
    config_of,
    end_of,
)
from simulated_restore import RestorePair
from simulation import CrashingStore, Fuse, LinkFaults, StoreFaults, VirtualClock, run_virtual

SIDES = ("alice", "bob")


def side_of(pair: RestorePair, side: str) -> SimulatedKme:
    return pair.alice if side == "alice" else pair.bob


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
    await pair.until(partial(works_with_an_operator, pair))
    await pair.check_blocks()
    await pair.end()


async def works_with_an_operator(pair: RestorePair) -> bool:
    """Return whether keys go through, and mark a store too if a KME asks for it.

    One does if the other's copy is of a time that both gave up since.
    """
    for kme in pair.both:
        reason = kme.pairing.liveness()[kme.other.local].unsound or ""
        if f"KME {kme.local} itself lost" in reason and not kme.fuse.is_blown:
            await pair.put_back(kme, kme.store.reopened())
    return await pair.traffic.works()


@pytest.mark.parametrize("batch", range(6))
def test_nothing_is_used_twice_and_the_pair_comes_back(batch: int) -> None:
    for seed in range(20 * batch, 20 * (batch + 1)):
        run_virtual(partial(restore_in_chaos, seed=seed))


async def restore_with_a_death(
    clock: VirtualClock, side: str, victim: str, step: int, *, both: bool
) -> bool:
    """Restore, kill a process at a step after that; return whether it came to that step."""
    pair = RestorePair(clock, seed=1)
    pair.begin()
    await clock.sleep(3)
    backups = {kme: kme.store.backup() for kme in pair.both}
    await clock.sleep(10)
    restored = side_of(pair, side)
    for kme in pair.both if both else (restored,):
        await pair.put_back(kme, backups[kme])
    dying = side_of(pair, victim)
    if dying is not restored and not both:
        dying.fuse.blow()
    # The process that finds the copy dies at the step; the next one lives.
    n_starts = dying.n_starts
    pair.chances.max_life_steps = None
    start: Callable[[int | None], None] = dying.start

    def start_mortal(life_steps: int | None = None) -> None:
        start(step if dying.n_starts == n_starts else life_steps)

    dying.start = start_mortal  # type: ignore[method-assign]
    await pair.rest()
    await clock.sleep(20)
    has_died = dying.n_starts > n_starts + 1
    await pair.until(pair.traffic.works)
    await pair.check_blocks()
    await pair.end()
    return has_died


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("victim", SIDES)
def test_a_death_at_any_step_of_it_is_mended_by_the_next_process(
    side: str, victim: str, both: bool
) -> None:
    for step in range(1, 60, 5 if both else 2):
        death = partial(restore_with_a_death, side=side, victim=victim, step=step, both=both)
        assert run_virtual(death)


def on_a_pair(test: Callable[[RestorePair], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        pair = RestorePair(clock, seed=3)
        pair.begin()
        await clock.sleep(5)
        await test(pair)
        await pair.end()

    run_virtual(main)


@pytest.mark.parametrize("side", SIDES)
def test_until_it_is_agreed_nothing_is_handed_out_and_the_reason_is_told(side: str) -> None:
    async def test(pair: RestorePair) -> None:
        kme = side_of(pair, side)
        backup = kme.store.backup()
        await pair.clock.sleep(5)
        pair.chances.link.drop = 1.0
        await pair.put_back(kme, backup)
        await pair.rest()
        await pair.clock.sleep(10)
        n_settled = (await kme.store.pairing(kme.other.local)).highest
        peer = kme.other.local
        for refused in (kme.pairing.require_alive, kme.pairing.require_heard_once):
            with pytest.raises(PeerUnavailableError, match=f"agreed with KME {peer}"):
                refused(peer)
        with pytest.raises(PeerUnavailableError, match="restored"):
            await kme.pairing.heartbeat_from_now(peer)
        with pytest.raises(PeerUnavailableError, match="restored"):
            await kme.pairing.on_heartbeat(peer, FIRST_HEARTBEAT)
        assert kme.pairing.liveness()[peer].unsound is not None
        await pair.traffic.feed(pair.both)
        await pair.clock.sleep(10)
        assert (await kme.store.pairing(peer)).highest == n_settled
        pair.heal()
        await pair.until(pair.traffic.works)

    on_a_pair(test)


@pytest.mark.parametrize("side", SIDES)
def test_what_the_peers_saes_were_promised_is_drawn(side: str) -> None:
    async def test(pair: RestorePair) -> None:
        kme = side_of(pair, side)
        await pair.until(pair.traffic.works)
        await pair.rest()
        promised = [await pair.traffic.allocate(kme) for _ in range(3)]
        backup = kme.store.backup()
        promised += [await pair.traffic.allocate(kme) for _ in range(3)]
        lost = await pair.traffic.allocate(kme.other)
        await pair.put_back(kme, backup)
        await pair.clock.sleep(10)
        for one in promised:
            assert one is not None
            await pair.traffic.draw(kme.other, one)
        assert lost is not None
        with pytest.raises(KeyNotFoundError):
            await pair.traffic.draw(kme, lost)
        await pair.until(pair.traffic.works)

    on_a_pair(test)


@pytest.mark.parametrize("side", SIDES)
def test_a_roll_back_that_was_seen_is_mended_by_marking_the_store_in_place(side: str) -> None:
    async def test(pair: RestorePair) -> None:
        kme = side_of(pair, side)
        backup = kme.store.backup()
        await pair.clock.sleep(10)
        await pair.put_back(kme, backup, marks=False)
        await pair.rest()
        await pair.clock.sleep(15)
        for one in pair.both:
            with pytest.raises(PeerUnavailableError, match="until an operator acts"):
                one.pairing.require_alive(one.other.local)
        await pair.put_back(kme, kme.store.reopened())
        await pair.until(pair.traffic.works)
        for one in pair.both:
            kinds = [incident.kind for incident in await one.store.incidents(9)]
            assert kinds == [IncidentKind.RESTORED, IncidentKind.ROLLED_BACK_PEER]

    on_a_pair(test)


def test_marking_the_wrong_store_is_refused_where_that_shows() -> None:
    async def test(pair: RestorePair) -> None:
        backup = pair.bob.store.backup()
        await pair.until(pair.traffic.works)
        await pair.put_back(pair.bob, backup, marks=False)
        await pair.put_back(pair.alice, pair.alice.store.reopened())
        await pair.rest()
        await pair.clock.sleep(20)
        for one in pair.both:
            with pytest.raises(PeerUnavailableError):
                one.pairing.require_alive(one.other.local)
        with pytest.raises(PeerUnavailableError, match="in place there, too"):
            pair.bob.pairing.require_heard_once(ALICE_KME)
        assert (await pair.bob.store.pairing(ALICE_KME)).floor_allocate == 0
        await pair.put_back(pair.bob, pair.bob.store.reopened())
        await pair.until(pair.traffic.works)

    on_a_pair(test)


@pytest.mark.parametrize("side", SIDES)
def test_an_agreement_that_comes_late_or_twice_changes_nothing(side: str) -> None:
    async def test(pair: RestorePair) -> None:
        kme = side_of(pair, side)
        await pair.put_back(kme, kme.store.backup())
        sent: list[RestoreTerms] = []
        answering = kme.other.pairing
        agree = answering.on_agree_restore

        async def seen(peer: KmeId, terms: RestoreTerms) -> RestoreConsent:
            sent.append(terms)
            return await agree(peer, terms)

        answering.on_agree_restore = seen  # type: ignore[method-assign]
        await pair.until(pair.traffic.works)
        await answering.on_ask_restore(kme.local, sent[0].incarnation)
        await pair.clock.sleep(3)
        floor = (await kme.other.store.pairing(kme.local)).floor_allocate
        for terms in sent:
            with pytest.raises(PeerUnavailableError, match="not open any more"):
                await agree(kme.local, terms)
        assert (await kme.other.store.pairing(kme.local)).floor_allocate == floor
        assert await pair.traffic.works()

    on_a_pair(test)


def test_a_challenge_is_for_one_restore_and_the_last_question_only() -> None:
    async def test(pair: RestorePair) -> None:
        handler = pair.bob.pairing
        first = await handler.on_ask_restore(ALICE_KME, "1" * 32)
        second = await handler.on_ask_restore(ALICE_KME, "2" * 32)
        wrong = [("1" * 32, first), ("1" * 32, second), ("2" * 32, second)]
        for incarnation, asked in wrong:  # the right one comes last: it was used up
            terms = RestoreTerms(incarnation, asked.challenge, "3" * 32, 0, 0)
            with pytest.raises(PeerUnavailableError, match="ask again"):
                await handler.on_agree_restore(ALICE_KME, terms)
        assert (await pair.bob.store.pairing(ALICE_KME)).floor_allocate == 0

    on_a_pair(test)


def test_whoever_leads_agrees_first_if_both_were_restored() -> None:
    async def test(pair: RestorePair) -> None:
        pair.chances.link.drop = 1.0
        for kme in pair.both:
            await pair.put_back(kme, kme.store.backup())
        await pair.rest()
        await pair.clock.sleep(10)
        asked = await pair.alice.pairing.on_ask_restore(BOB_KME, "1" * 32)
        assert asked.is_restoring
        link = ScriptedLink()
        link.on_ask_restore = lambda _: RestoreChallenge("c" * 32, is_restoring=True)
        for kme, n_sent in ((pair.bob, 1), (pair.alice, 2)):
            link.restores.clear()
            end = end_of(kme.local, kme.store.backup(), pair.clock)
            guard = RollbackGuard(end)
            restore = OwnRestore(end, link, guard, pair.token)
            if n_sent == 1:
                with pytest.raises(PeerUnavailableError, match="restored as well"):
                    await restore.agree()
            else:
                assert await restore.agree()
                assert not await restore.agree()
                guard.require_none()
            assert len(link.restores) == n_sent
        pair.heal()
        await pair.until(pair.traffic.works)

    on_a_pair(test)


def test_final_keys_of_both_old_copies_make_no_block() -> None:
    async def test(pair: RestorePair) -> None:
        await pair.rest()
        pair.chances.link.drop = 1.0
        await pair.traffic.feed(pair.both)
        first = Epoch(pair.traffic.last_epoch)
        backups = [kme.store.backup() for kme in pair.both]
        pair.chances.link.drop = 0.0
        await pair.until(pair.traffic.works)
        await pair.clock.sleep(10)
        for kme, backup in zip(pair.both, backups, strict=True):
            assert await backup.inbox(kme.other.local, LINK, None, 9)
            await pair.put_back(kme, backup)
        await pair.clock.sleep(30)
        for kme in pair.both:
            assert await kme.store.inbox(kme.other.local, LINK, None, 9) == []
            for epoch in (first, Epoch(first.number - 1), Epoch(first.number + 9)):
                assert not await kme.store.ingest(kme.other.local, LINK, epoch, [Secret(b"key")])
        await pair.until(pair.traffic.works)

    on_a_pair(test)


def test_claims_are_looked_at_before_the_restored_peer_is_answered() -> None:
    async def main(clock: VirtualClock) -> None:
        floors: list[int] = []
        store = MemoryStore(BOB_KME)

        async def heed() -> None:
            floors.append((await store.pairing(ALICE_KME)).floor_allocate)

        peers = [(config_of(ALICE_KME), ScriptedLink())]
        pairing = Pairing(BOB_KME, store, clock, peers, heed_floors=heed)
        asked = await pairing.on_ask_restore(ALICE_KME, "1" * 32)
        assert floors == []
        terms = RestoreTerms("1" * 32, asked.challenge, "2" * 32, 7, 0)
        assert (await pairing.on_agree_restore(ALICE_KME, terms)).highest == 8
        assert floors == [8]
        with pytest.raises(IdentityError):
            await pairing.on_ask_restore(BOB_KME, "1" * 32)
        with pytest.raises(IdentityError):
            await pairing.on_agree_restore(BOB_KME, terms)

    run_virtual(main)


def test_a_store_that_does_not_say_is_not_taken_for_sound() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(BOB_KME)
        await store.mark_restored("1" * 32)
        faults = StoreFaults(unavailable=1.0)
        end = end_of(BOB_KME, CrashingStore(store, Fuse(), faults), clock)
        restore = OwnRestore(end, ScriptedLink(), RollbackGuard(end), random_token)
        with pytest.raises(StoreUnavailableError):
            await restore.require_agreed()
        faults.unavailable = 0.0
        with pytest.raises(PeerUnavailableError):
            await restore.require_agreed()
        assert await restore.agree()
        await restore.require_agreed()

    run_virtual(main)


def test_an_agreement_that_was_written_without_an_answer_opens_the_pair() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(BOB_KME)
        await store.mark_restored("1" * 32)
        end = end_of(BOB_KME, store, clock)
        guard = RollbackGuard(end)
        restore = OwnRestore(end, ScriptedLink(), guard, random_token)
        agree = store.agree_restore

        async def unanswered(peer: KmeId, agreement: RestoreAgreement) -> None:
            await agree(peer, agreement)
            raise StoreUnavailableError("no answer")

        store.agree_restore = unanswered  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await restore.agree()
        with pytest.raises(PeerUnavailableError):
            guard.require_none()
        assert not await restore.agree()
        guard.require_none()
        assert [one.kind for one in await store.incidents(9)] == [IncidentKind.RESTORED]

    run_virtual(main)


def test_a_look_at_the_mark_that_ends_late_does_not_close_what_was_agreed_meanwhile() -> None:
    async def main(clock: VirtualClock) -> None:
        store, gate = MemoryStore(BOB_KME), asyncio.Event()
        await store.mark_restored("1" * 32)
        end = end_of(BOB_KME, store, clock)
        guard = RollbackGuard(end)
        restore = OwnRestore(end, ScriptedLink(), guard, random_token)
        restoring = store.restoring

        async def slow(peer: KmeId) -> str | None:
            store.restoring = restoring  # type: ignore[method-assign]
            found = await restoring(peer)
            await gate.wait()
            return found

        store.restoring = slow  # type: ignore[method-assign]
        looking = asyncio.create_task(restore.require_agreed())
        await clock.sleep(1)
        assert await restore.agree()
        gate.set()
        with pytest.raises(PeerUnavailableError):
            await looking
        await restore.require_agreed()
        guard.require_none()

    run_virtual(main)


def test_a_proposal_from_before_that_comes_late_takes_no_number() -> None:
    async def test(pair: RestorePair) -> None:
        proposals: list[Proposal] = []
        propose = pair.bob.pairing.on_propose

        async def lost(peer: KmeId, proposal: Proposal) -> Verdict:
            proposals.append(proposal)
            raise PeerUnavailableError("lost on the way")

        pair.bob.pairing.on_propose = lost  # type: ignore[method-assign]
        backup = pair.alice.store.backup()
        await pair.clock.sleep(10)
        await pair.put_back(pair.alice, backup)
        while pair.bob.pairing.liveness()[ALICE_KME].begun_s is None or not await agreed(pair):
            await pair.clock.sleep(0.1)
        with pytest.raises(PeerUnavailableError):
            await propose(ALICE_KME, proposals[-1])
        pair.bob.pairing.on_propose = propose  # type: ignore[method-assign]
        await pair.until(pair.traffic.works)

    on_a_pair(test)


async def agreed(pair: RestorePair) -> bool:
    """Return whether a restore was agreed, and heartbeats of both were accepted since."""
    if await pair.alice.store.restoring(BOB_KME) is not None:
        return False
    return all(kme.pairing.liveness()[kme.other.local].not_alive is None for kme in pair.both)
