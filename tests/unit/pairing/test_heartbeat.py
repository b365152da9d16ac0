import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from kme.errors import PeerUnavailableError, StoreUnavailableError
from kme.ids import KmeId
from kme.pairing.heartbeat import Heartbeats, PeerReport
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, HeartbeatOutcome
from kme.store.memory import MemoryStore
from kme.store.records import HeartbeatRecord, IncidentKind
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    ScriptedLink,
    accepted,
    end_of,
)
from simulation import CrashingStore, Fuse, StoreFaults, VirtualClock, run_virtual


class Sender:
    """kme-a, whose heartbeats a script answers."""

    def __init__(self, clock: VirtualClock) -> None:
        self.memory = MemoryStore(ALICE_KME)
        self.faults = StoreFaults()
        store = CrashingStore(self.memory, Fuse(), self.faults)
        self.link = ScriptedLink()
        self.heartbeats = Heartbeats(end_of(ALICE_KME, store, clock), self.link)

    async def record(self) -> HeartbeatRecord:
        return await self.memory.heartbeat(BOB_KME)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.heartbeats.run())
        await self.heartbeats.on_heartbeat(FIRST_HEARTBEAT)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def lost(_heartbeat: Heartbeat) -> HeartbeatAnswer:
    raise PeerUnavailableError("lost")


def test_a_peer_is_alive_for_one_lease_from_before_the_heartbeat_was_sent() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        with pytest.raises(PeerUnavailableError, match="not heard"):
            alice.heartbeats.require_heard_once()
        await alice.heartbeats.on_heartbeat(FIRST_HEARTBEAT)
        with pytest.raises(PeerUnavailableError, match="not heard within 5 s"):
            alice.heartbeats.require_alive()
        begun_s = clock.monotonic_s()
        async with alice.running():
            await clock.sleep(0.5)
        alice.heartbeats.require_alive()
        clock.advance(begun_s + 4.9 - clock.monotonic_s())
        alice.heartbeats.require_alive()
        clock.advance(0.1)
        with pytest.raises(PeerUnavailableError):
            alice.heartbeats.require_alive()
        assert not alice.heartbeats.is_alive
        alice.heartbeats.require_heard_once()

    run_virtual(main)


def test_a_peer_that_only_listens_is_not_alive() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        beating = asyncio.create_task(alice.heartbeats.run())
        await clock.sleep(0.5)
        alice.heartbeats.require_heard_once()
        with pytest.raises(PeerUnavailableError, match="has sent no heartbeat"):
            alice.heartbeats.require_alive()
        await alice.heartbeats.on_heartbeat(FIRST_HEARTBEAT)
        alice.heartbeats.require_alive()
        beating.cancel()

    run_virtual(main)


def test_a_nonce_is_durable_before_it_is_sent() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        pending: list[str | None] = []

        def answer(heartbeat: Heartbeat) -> HeartbeatAnswer:
            state = asyncio.get_running_loop().create_task(alice.record())
            state.add_done_callback(lambda task: pending.append(task.result().pending))
            return lost(heartbeat)

        alice.link.on_heartbeat = answer
        async with alice.running():
            await clock.sleep(3.5)
        assert pending == [heartbeat.nonce for heartbeat in alice.link.heartbeats]

    run_virtual(main)


def test_a_nonce_is_repeated_until_it_is_acknowledged_even_by_another_process() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        alice.link.on_heartbeat = lost
        async with alice.running():
            await clock.sleep(3.5)
        reborn = Sender(clock)
        reborn.heartbeats = Heartbeats(end_of(ALICE_KME, alice.memory, clock), reborn.link)
        async with reborn.running():
            await clock.sleep(1.5)
        first = alice.link.heartbeats[0]
        assert len(alice.link.heartbeats) == 4
        assert all(heartbeat == first for heartbeat in alice.link.heartbeats)
        assert first.acknowledged is None
        repeated, fresh, *_ = reborn.link.heartbeats
        assert repeated.nonce == first.nonce
        assert fresh.nonce != first.nonce
        assert fresh.acknowledged == first.nonce

    run_virtual(main)


@pytest.mark.parametrize("late", [3, 4, 5])
def test_a_nonce_whose_write_may_still_land_is_used_again(late: int) -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        written: list[tuple[str, str | None]] = []
        begin = alice.memory.begin_heartbeat

        async def fail_and_land_late(
            peer: KmeId, nonce: str, accepted: str | None
        ) -> HeartbeatRecord:
            written.append((nonce, accepted))
            if len(written) == 2:
                raise StoreUnavailableError("no answer")
            record = await begin(peer, nonce, accepted)
            if len(written) == late:
                await begin(peer, *written[1])
            return record

        alice.memory.begin_heartbeat = fail_and_land_late  # type: ignore[method-assign]
        async with alice.running():
            await clock.sleep(4.5)
        sent = alice.link.heartbeats
        first, second, third, *_ = nonces = [heartbeat.nonce for heartbeat in sent]
        assert len(set(nonces)) == len(nonces)
        assert written[:4] == [(first, None), (second, first), (second, first), (third, second)]
        assert [heartbeat.acknowledged for heartbeat in sent][:4] == [None, first, second, third]

    run_virtual(main)


@pytest.mark.parametrize("seed", range(10))
def test_two_processes_that_take_turns_or_overlap_never_look_rolled_back(seed: int) -> None:
    rng = random.Random(seed)

    async def main(clock: VirtualClock) -> None:
        bob = Heartbeats(end_of(BOB_KME, MemoryStore(BOB_KME), clock), ScriptedLink())
        outcomes: list[HeartbeatOutcome] = []

        async def carry(heartbeat: Heartbeat) -> HeartbeatAnswer:
            await clock.sleep(rng.choice((0, 0.1, 3)))
            answer = await bob.on_heartbeat(heartbeat)
            outcomes.append(answer.outcome)
            await clock.sleep(rng.choice((0, 0.1, 3)))
            return lost(heartbeat) if rng.random() < 0.2 else answer

        store = MemoryStore(ALICE_KME)
        for _ in range(20):
            workers = [Sender(clock) for _ in range(rng.choice((1, 2)))]
            for worker in workers:
                worker.link.heartbeat = carry  # type: ignore[method-assign]
                worker.heartbeats = Heartbeats(end_of(ALICE_KME, store, clock), worker.link)
            tasks = [asyncio.create_task(worker.heartbeats.run()) for worker in workers]
            await clock.sleep(rng.uniform(0, 10))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes.count(HeartbeatOutcome.ACCEPTED) > 40
        assert HeartbeatOutcome.ROLLED_BACK not in outcomes

    run_virtual(main)


def test_a_repeated_nonce_covers_nothing_that_was_claimed_after_it() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        alice.link.on_heartbeat = lost
        async with alice.running():
            await clock.sleep(0.5)
            older_copy = await alice.record()
            alice.link.on_heartbeat = accepted
            await alice.heartbeats.from_now()
            heard = alice.link.heartbeats[-1]
        assert older_copy.pending == alice.link.heartbeats[0].nonce
        # Restored, the older copy would send what it has pending: the peer must not take it.
        assert heard.nonce not in {older_copy.pending, older_copy.acknowledged}
        assert heard.acknowledged == older_copy.pending

    run_virtual(main)


def test_a_store_that_takes_no_write_lets_the_lease_lapse() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(2)
            alice.faults.unavailable = 1.0
            await clock.sleep(6)
            with pytest.raises(PeerUnavailableError):
                alice.heartbeats.require_alive()
            with pytest.raises(PeerUnavailableError, match="accepted no heartbeat"):
                await alice.heartbeats.from_now()
            alice.faults.unavailable = 0.0
            await alice.heartbeats.from_now()
            alice.heartbeats.require_alive()

    run_virtual(main)


def test_a_heartbeat_under_way_does_not_count_for_who_asks_from_now() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(0.005)
            assert len(alice.link.heartbeats) == 1
            await alice.heartbeats.from_now()
            assert len(alice.link.heartbeats) == 2
            # Each takes 0.01 s, one after the other.
            assert clock.monotonic_s() == pytest.approx(1000.02)

    run_virtual(main)


def test_many_that_ask_at_once_share_one_heartbeat_and_never_two_are_under_way() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        n_under_way = 0

        async def slow(heartbeat: Heartbeat) -> HeartbeatAnswer:
            nonlocal n_under_way
            alice.link.heartbeats.append(heartbeat)
            n_under_way += 1
            assert n_under_way == 1
            await clock.sleep(0.2)
            n_under_way -= 1
            return accepted(heartbeat)

        alice.link.heartbeat = slow  # type: ignore[method-assign]
        async with alice.running():
            await clock.sleep(0.3)
            await asyncio.gather(*(alice.heartbeats.from_now() for _ in range(50)))
            assert len(alice.link.heartbeats) == 2
            asking = []
            for _ in range(20):
                asking.append(asyncio.create_task(alice.heartbeats.from_now()))
                await clock.sleep(0.05)
            await asyncio.gather(*asking)
            assert len(alice.link.heartbeats) <= 2 + 20 * 0.05 / 0.2 + 2

    run_virtual(main)


def test_who_asks_is_told_at_once_that_the_peer_is_down() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(0.5)
            alice.link.on_heartbeat = lost
            begun_s = clock.monotonic_s()
            results = await asyncio.gather(
                *(alice.heartbeats.from_now() for _ in range(20)), return_exceptions=True
            )
            assert all(isinstance(result, PeerUnavailableError) for result in results)
            assert clock.monotonic_s() - begun_s < 0.1

    run_virtual(main)


def test_who_asks_waits_no_longer_than_the_lease() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)

        async def hang(heartbeat: Heartbeat) -> HeartbeatAnswer:
            await clock.sleep(1000)
            return accepted(heartbeat)

        alice.link.heartbeat = hang  # type: ignore[method-assign]
        async with alice.running():
            begun_s = clock.monotonic_s()
            with pytest.raises(PeerUnavailableError):
                await alice.heartbeats.from_now()
            assert clock.monotonic_s() - begun_s == pytest.approx(5.0)

    run_virtual(main)


def test_one_lost_heartbeat_is_forgiven_to_who_asks() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(0.5)
            n_sent = len(alice.link.heartbeats)
            alice.link.on_heartbeat = lambda heartbeat: (
                lost(heartbeat) if len(alice.link.heartbeats) == n_sent + 1 else accepted(heartbeat)
            )
            await alice.heartbeats.from_now()

    run_virtual(main)


def test_who_asks_when_nothing_runs_is_told_within_the_lease() -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(PeerUnavailableError):
            await Sender(clock).heartbeats.from_now()

    run_virtual(main)


def test_who_asks_is_told_when_heartbeats_are_stopped() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(0.5)
            asking = asyncio.create_task(alice.heartbeats.from_now())
            await clock.sleep(0.005)
        with pytest.raises(PeerUnavailableError):
            await asking

    run_virtual(main)


def test_a_challenge_is_answered_once_from_a_fresh_reading() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        challenged = HeartbeatAnswer(HeartbeatOutcome.CHALLENGED, "c" * 32, 0, 0)
        alice.link.on_heartbeat = lambda _: challenged
        n_readings = 0
        read = alice.memory.heartbeat

        async def count(peer: object) -> HeartbeatRecord:
            nonlocal n_readings
            n_readings += 1
            return await read(BOB_KME)

        alice.memory.heartbeat = count  # type: ignore[method-assign]
        async with alice.running():
            await clock.sleep(0.5)
        plain, answering = alice.link.heartbeats
        assert plain.challenge is None
        assert answering == replace(plain, challenge="c" * 32)
        assert n_readings == 1
        assert not alice.heartbeats.is_alive
        alice.link.on_heartbeat = accepted
        async with alice.running():
            await clock.sleep(0.5)
        alice.heartbeats.require_alive()

    run_virtual(main)


def test_a_roll_back_told_by_the_peer_closes_everything_for_good() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        async with alice.running():
            await clock.sleep(0.5)
            alice.heartbeats.require_alive()
            rolled_back = HeartbeatAnswer(HeartbeatOutcome.ROLLED_BACK, None, 0, 0)
            alice.link.on_heartbeat = lambda _: rolled_back
            with pytest.raises(PeerUnavailableError, match="kme-b saw a newer state of KME kme-a"):
                await alice.heartbeats.from_now()
            alice.link.on_heartbeat = accepted
            await clock.sleep(10)
            for require in (
                alice.heartbeats.require_alive,
                alice.heartbeats.require_heard_once,
                alice.heartbeats.require_sound,
            ):
                with pytest.raises(PeerUnavailableError, match="saw a newer state"):
                    require()
        kinds = [incident.kind for incident in await alice.memory.incidents(9)]
        assert kinds == [IncidentKind.ROLLED_BACK_PEER]

    run_virtual(main)


def test_an_answer_from_a_peer_that_is_ahead_shows_that_we_forgot() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        alice.link.on_heartbeat = lambda _: HeartbeatAnswer(HeartbeatOutcome.ACCEPTED, None, 4, 0)
        async with alice.running():
            await clock.sleep(0.5)
        with pytest.raises(PeerUnavailableError, match="this KME lost"):
            alice.heartbeats.require_heard_once()
        assert (await alice.record()).acknowledged is None

    run_virtual(main)


def test_the_report_goes_with_what_the_peer_was_told() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        assert alice.heartbeats.report is None
        alice.link.on_heartbeat = lambda _: HeartbeatAnswer(
            HeartbeatOutcome.ACCEPTED, None, 0, 4096
        )
        async with alice.running():
            await clock.sleep(0.5)
        assert alice.heartbeats.report == PeerReport(told_settled=0, free_bytes=4096)

    run_virtual(main)


def test_other_processes_are_told_what_this_one_knows() -> None:
    async def main(clock: VirtualClock) -> None:
        alice = Sender(clock)
        before = alice.heartbeats.liveness()
        assert before.begun_s is None
        assert before.alive_until_s is None
        assert before.not_alive is not None
        assert before.unsound is None
        begun_s = clock.monotonic_s()
        async with alice.running():
            await clock.sleep(0.5)
        after = alice.heartbeats.liveness()
        assert after.begun_s == begun_s
        assert after.alive_until_s == begun_s + 5
        assert after.not_alive is None

    run_virtual(main)
