import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from kme.errors import PeerUnavailableError
from kme.ids import Epoch
from kme.pairing.challenges import HeartbeatJudge
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, HeartbeatOutcome
from kme.pairing.rollback import RollbackGuard
from kme.store.memory import MemoryStore
from kme.store.records import (
    FinalKeyRef,
    Frontier,
    IncidentKind,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from simulated_pair import ALICE_KME, BOB_KME, LINK, end_of
from simulation import CrashingStore, Fuse, StoreFaults, VirtualClock, run_virtual


def nonce(number: int) -> str:
    return f"{number:032x}"


def beat(
    number: int, acknowledged: int | None, challenge: str | None = None, settled: int = 0
) -> Heartbeat:
    previous = None if acknowledged is None else nonce(acknowledged)
    return Heartbeat(nonce(number), previous, challenge, settled, 0, Frontier())


def settlement(number: int) -> Settlement:
    proposal = Proposal(
        number,
        BOB_KME,
        (FinalKeyRef(LINK, Epoch(number)),),
        60,
        SourceClass.QKD,
        bytes(16),
    )
    return Settlement(proposal, Verdict.VOID)


@dataclass
class Receiver:
    """kme-b, which judges what kme-a sends."""

    store: MemoryStore
    guard: RollbackGuard
    judge: HeartbeatJudge

    async def gets(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        return await self.judge.judge(heartbeat)

    async def heard(self) -> str | None:
        return (await self.store.heartbeat(ALICE_KME)).heard


def with_receiver(test: Callable[[Receiver], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(BOB_KME)
        end = end_of(BOB_KME, store, clock)
        guard = RollbackGuard(end)
        tokens = (f"c{number:031x}" for number in itertools.count())
        await test(Receiver(store, guard, HeartbeatJudge(end, guard, lambda: next(tokens))))

    run_virtual(main)


def test_the_first_heartbeat_ever_is_accepted_and_remembered() -> None:
    async def test(bob: Receiver) -> None:
        answer = await bob.gets(beat(1, None))
        assert answer.outcome is HeartbeatOutcome.ACCEPTED
        assert await bob.heard() == nonce(1)

    with_receiver(test)


def test_a_repeated_heartbeat_and_the_next_one_are_accepted() -> None:
    async def test(bob: Receiver) -> None:
        for heartbeat in (beat(1, None), beat(1, None), beat(2, 1), beat(2, 1), beat(3, 2)):
            assert (await bob.gets(heartbeat)).outcome is HeartbeatOutcome.ACCEPTED
        assert await bob.heard() == nonce(3)

    with_receiver(test)


def test_a_heartbeat_from_the_past_is_challenged_and_changes_nothing() -> None:
    async def test(bob: Receiver) -> None:
        for number in range(1, 5):
            await bob.gets(beat(number, number - 1 or None))
        for late in (beat(1, None), beat(2, 1), beat(3, 2)):
            answer = await bob.gets(late)
            assert answer.outcome is HeartbeatOutcome.CHALLENGED
            assert answer.challenge is not None
        assert await bob.heard() == nonce(4)
        assert (await bob.gets(beat(5, 4))).outcome is HeartbeatOutcome.ACCEPTED
        bob.guard.require_none()

    with_receiver(test)


def test_an_answered_challenge_that_still_fails_is_a_roll_back() -> None:
    async def test(bob: Receiver) -> None:
        for number in range(1, 5):
            await bob.gets(beat(number, number - 1 or None))
        challenge = (await bob.gets(beat(9, 2))).challenge
        answer = await bob.gets(beat(9, 2, challenge))
        assert answer.outcome is HeartbeatOutcome.ROLLED_BACK
        with pytest.raises(PeerUnavailableError, match="older"):
            bob.guard.require_none()
        bob.guard.require_ours_sound()
        incidents = await bob.store.incidents(9)
        assert [incident.kind for incident in incidents] == [IncidentKind.ROLLED_BACK_PEER]
        assert await bob.heard() == nonce(4)

    with_receiver(test)


def test_an_answered_challenge_that_holds_is_accepted() -> None:
    async def test(bob: Receiver) -> None:
        await bob.gets(beat(1, None))
        challenge = (await bob.gets(beat(9, 8))).challenge
        assert (await bob.gets(beat(2, 1, challenge))).outcome is HeartbeatOutcome.ACCEPTED
        bob.guard.require_none()

    with_receiver(test)


def test_a_late_answer_to_a_challenge_is_no_roll_back_once_another_was_accepted() -> None:
    async def test(bob: Receiver) -> None:
        await bob.gets(beat(1, None))
        challenge = (await bob.gets(beat(9, 8))).challenge
        await bob.gets(beat(2, 1))
        await bob.gets(beat(3, 2))
        assert (await bob.gets(beat(2, 1, challenge))).outcome is HeartbeatOutcome.CHALLENGED
        bob.guard.require_none()

    with_receiver(test)


def test_a_challenge_counts_once_and_only_if_it_was_given() -> None:
    async def test(bob: Receiver) -> None:
        await bob.gets(beat(1, None))
        made_up = "d" * 32
        assert (await bob.gets(beat(9, 8, made_up))).outcome is HeartbeatOutcome.CHALLENGED
        challenge = (await bob.gets(beat(9, 8))).challenge
        assert (await bob.gets(beat(9, 8, challenge))).outcome is HeartbeatOutcome.ROLLED_BACK
        assert (await bob.gets(beat(9, 8, challenge))).outcome is HeartbeatOutcome.CHALLENGED

    with_receiver(test)


def test_only_the_latest_challenges_are_remembered() -> None:
    async def test(bob: Receiver) -> None:
        await bob.gets(beat(1, None))
        challenges = [(await bob.gets(beat(9, 8))).challenge for _ in range(9)]
        assert len(set(challenges)) == 9
        oldest, latest = challenges[0], challenges[-1]
        assert (await bob.gets(beat(9, 8, oldest))).outcome is HeartbeatOutcome.CHALLENGED
        assert (await bob.gets(beat(9, 8, latest))).outcome is HeartbeatOutcome.ROLLED_BACK

    with_receiver(test)


def test_a_receiver_without_memory_says_that_it_is_the_one() -> None:
    async def test(bob: Receiver) -> None:
        challenge = (await bob.gets(beat(5, 4))).challenge
        assert (await bob.gets(beat(5, 4, challenge))).outcome is HeartbeatOutcome.ROLLED_BACK
        with pytest.raises(PeerUnavailableError, match="KME kme-b has no memory of KME kme-a"):
            bob.guard.require_ours_sound()
        assert await bob.heard() is None

    with_receiver(test)


def test_a_sender_without_memory_is_named() -> None:
    async def test(bob: Receiver) -> None:
        for number in range(1, 4):
            await bob.gets(beat(number, number - 1 or None))
        challenge = (await bob.gets(beat(9, None))).challenge
        assert (await bob.gets(beat(9, None, challenge))).outcome is HeartbeatOutcome.ROLLED_BACK
        with pytest.raises(PeerUnavailableError, match="KME kme-a has no memory of KME kme-b"):
            bob.guard.require_none()
        bob.guard.require_ours_sound()

    with_receiver(test)


def test_what_the_peer_settled_counts_only_as_far_as_it_is_settled_here() -> None:
    async def test(bob: Receiver) -> None:
        for number in (1, 2, 3):
            await bob.store.settle(ALICE_KME, settlement(number), None)
        answer = await bob.gets(beat(1, None, settled=2))
        assert answer.settled == 3
        assert (await bob.store.pairing(ALICE_KME)).peer_settled == 2
        await bob.gets(beat(2, 1, settled=1))
        assert (await bob.store.pairing(ALICE_KME)).peer_settled == 2
        await bob.gets(beat(3, 2, settled=3))
        assert (await bob.store.pairing(ALICE_KME)).peer_settled == 3

    with_receiver(test)


def test_a_challenged_heartbeat_says_nothing_about_blocks() -> None:
    async def test(bob: Receiver) -> None:
        await bob.store.settle(ALICE_KME, settlement(1), None)
        await bob.gets(beat(1, None))
        await bob.gets(beat(9, 8, settled=1))
        assert (await bob.store.pairing(ALICE_KME)).peer_settled == 0

    with_receiver(test)


def test_a_peer_that_settled_more_than_was_ever_proposed_shows_that_we_forgot() -> None:
    async def test(bob: Receiver) -> None:
        await bob.store.settle(ALICE_KME, settlement(1), None)
        await bob.gets(beat(1, None, settled=2))
        with pytest.raises(PeerUnavailableError, match="restored from an older copy"):
            bob.guard.require_ours_sound()
        assert (await bob.store.incidents(1))[0].kind is IncidentKind.ROLLED_BACK_PEER

    with_receiver(test)


def test_heartbeats_that_come_at_once_are_judged_one_by_one() -> None:
    async def main(clock: VirtualClock, seed: int) -> None:
        rng = random.Random(seed)

        async def pause() -> None:
            await clock.sleep(rng.uniform(0, 0.1))

        store = CrashingStore(MemoryStore(BOB_KME), Fuse(), StoreFaults(pause))
        end = end_of(BOB_KME, store, clock)
        guard = RollbackGuard(end)
        judge = HeartbeatJudge(end, guard, lambda: "0" * 32)
        await judge.judge(beat(1, None))
        await judge.judge(beat(2, 1))
        doubled = [beat(2, 1), beat(3, 2), beat(2, 1), beat(3, 2)]
        await asyncio.gather(*map(judge.judge, rng.sample(doubled, 4)))
        assert (await store.heartbeat(ALICE_KME)).heard == nonce(3)
        guard.require_none()

    for seed in range(20):
        run_virtual(partial(main, seed=seed))
