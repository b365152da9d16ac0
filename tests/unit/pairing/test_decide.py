import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from kme.errors import PairingError, PeerUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.decide import Follower
from kme.pairing.heartbeat import Heartbeats
from kme.pairing.pair import MAX_ENTRIES
from kme.pairing.ports import Heartbeat
from kme.pairing.tags import make_tag
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import FinalKeyRef, Frontier, IncidentKind, Proposal, SourceClass, Verdict
from kme.store.rules import MAX_STEP
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    OTHER_LINK,
    ScriptedLink,
    end_of,
)
from simulation import CrashingStore, Fuse, StoreFaults, VirtualClock, run_virtual

PAIR = (ALICE_KME, BOB_KME)


def key_of(epoch: int, n_bytes: int = 600) -> Secret:
    return Secret(random.Random(epoch).randbytes(n_bytes))


def propose(number: int, *epochs: int, owner: KmeId = BOB_KME) -> Proposal:
    """Return what a correct leader proposes."""
    refs = tuple(FinalKeyRef(LINK, Epoch(epoch)) for epoch in epochs)
    proposal = Proposal(number, owner, refs, 60, SourceClass.QKD, bytes(16))
    return tagged(proposal, *(key_of(epoch) for epoch in epochs))


def tagged(proposal: Proposal, *keys: Secret) -> Proposal:
    return replace(proposal, tag=make_tag(PAIR, proposal, Secret.join(list(keys))))


@dataclass
class Bench:
    """The follower kme-b; its inbox holds epochs 1 to 9."""

    clock: VirtualClock
    store: MemoryStore
    faults: StoreFaults
    heartbeats: Heartbeats
    follower: Follower

    async def n_waiting(self) -> int:
        return len(await self.store.inbox(ALICE_KME, LINK, None, 99))

    async def kinds_of_incidents(self) -> list[IncidentKind]:
        return [incident.kind for incident in await self.store.incidents(99)]


def on_a_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        memory, faults = MemoryStore(BOB_KME), StoreFaults()
        for epoch in range(1, 10):
            await memory.ingest(ALICE_KME, LINK, Epoch(epoch), [key_of(epoch)])
        end = end_of(BOB_KME, CrashingStore(memory, Fuse(), faults), clock)
        heartbeats = Heartbeats(end, ScriptedLink())
        beating = asyncio.create_task(heartbeats.run())
        await heartbeats.on_heartbeat(FIRST_HEARTBEAT)
        await clock.sleep(0.5)
        await test(Bench(clock, memory, faults, heartbeats, Follower(end, heartbeats)))
        beating.cancel()

    run_virtual(main)


def test_equal_is_durable_before_it_is_said() -> None:
    async def test(bench: Bench) -> None:
        proposal = propose(1, 2, 1)
        assert await bench.follower.decide(proposal) is Verdict.EQUAL
        block = await bench.store.block(ALICE_KME, 1)
        assert block is not None
        assert block.key == Secret.join([key_of(2), key_of(1)])
        assert (block.owner, block.source_class, block.lifetime_s) == (BOB_KME, "qkd", 60)
        record = await bench.store.pairing(ALICE_KME)
        assert record.last is not None
        assert record.last.proposal == proposal
        assert record.peer_settled == 0
        assert await bench.n_waiting() == 7

    on_a_bench(test)


def test_a_missing_entry_makes_it_void_and_burns_the_others() -> None:
    async def test(bench: Bench) -> None:
        assert await bench.follower.decide(propose(1, 1, 77)) is Verdict.VOID
        assert await bench.n_waiting() == 8
        assert await bench.store.block(ALICE_KME, 1) is None
        assert await bench.kinds_of_incidents() == []

    on_a_bench(test)


def test_a_wrong_tag_makes_it_unequal_burns_the_entries_and_raises_an_alarm() -> None:
    async def test(bench: Bench) -> None:
        proposal = tagged(propose(1, 1, 2), key_of(1), key_of(3))
        assert await bench.follower.decide(proposal) is Verdict.UNEQUAL
        assert await bench.n_waiting() == 7
        assert await bench.store.block(ALICE_KME, 1) is None
        assert await bench.kinds_of_incidents() == [IncidentKind.UNEQUAL_BLOCK]

    on_a_bench(test)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_same_proposal_has_the_same_verdict_for_ever(verdict: Verdict) -> None:
    async def test(bench: Bench) -> None:
        proposal = {
            Verdict.EQUAL: propose(3, 1, 2),
            Verdict.UNEQUAL: replace(propose(3, 1, 2), tag=bytes(16)),
            Verdict.VOID: propose(3, 1, 99),
        }[verdict]
        for _ in range(3):
            assert await bench.follower.decide(proposal) is verdict
        # What was missing may come in later; it is too late for it.
        await bench.store.ingest(ALICE_KME, LINK, Epoch(99), [key_of(99)])
        assert await bench.follower.decide(proposal) is verdict
        assert len(await bench.kinds_of_incidents()) == (verdict is Verdict.UNEQUAL)

    on_a_bench(test)


def test_any_other_proposal_at_or_below_the_highest_number_is_refused() -> None:
    async def test(bench: Bench) -> None:
        first, third = propose(1, 1), propose(3, 3)
        await bench.follower.decide(first)
        await bench.follower.decide(third)
        late = (first, propose(2, 2), propose(1, 4))
        for proposal in late:
            with pytest.raises(PairingError, match="judged all numbers up to 3"):
                await bench.follower.decide(proposal)
        assert await bench.kinds_of_incidents() == []
        for _ in range(2):
            with pytest.raises(PairingError, match="judged all numbers up to 3"):
                await bench.follower.decide(propose(3, 4))
        assert await bench.kinds_of_incidents() == [IncidentKind.BROKEN_PROPOSAL]
        assert await bench.follower.decide(third) is Verdict.EQUAL
        assert await bench.n_waiting() == 7

    on_a_bench(test)


def broken_proposals() -> list[tuple[str, Proposal]]:
    good = propose(1, 1, 2)
    private, other = SourceId("private"), OTHER_LINK
    many = tuple(FinalKeyRef(LINK, Epoch(epoch)) for epoch in range(MAX_ENTRIES + 1))
    return [
        ("owner", replace(good, owner=KmeId("stranger"))),
        ("no source", replace(good, entries=(FinalKeyRef(private, Epoch(1)),))),
        ("is random at", replace(good, entries=(FinalKeyRef(other, Epoch(1)),))),
        ("is qkd at", replace(good, source_class=SourceClass.RANDOM)),
        ("at most 1024", replace(good, entries=many)),
        ("would have 100 bytes", replace(good, entries=(FinalKeyRef(LINK, Epoch(100)),))),
        (
            "would have 70000 bytes",
            replace(good, entries=tuple(FinalKeyRef(LINK, Epoch(101), part) for part in (0, 1))),
        ),
    ]


@pytest.mark.parametrize(("rule", "proposal"), broken_proposals())
def test_a_proposal_that_breaks_a_rule_leaves_no_trace(rule: str, proposal: Proposal) -> None:
    async def test(bench: Bench) -> None:
        await bench.store.ingest(ALICE_KME, LINK, Epoch(100), [Secret(bytes(100))])
        halves = [Secret(bytes(35_000)), Secret(bytes(35_000))]
        await bench.store.ingest(ALICE_KME, LINK, Epoch(101), halves)
        before = await bench.store.pairing(ALICE_KME)
        n_waiting = await bench.n_waiting()
        with pytest.raises(PairingError, match=rule):
            await bench.follower.decide(proposal)
        assert await bench.store.pairing(ALICE_KME) == before
        assert await bench.n_waiting() == n_waiting
        assert await bench.follower.decide(propose(1, 1, 2)) is Verdict.EQUAL

    on_a_bench(test)


def test_a_number_that_leaps_is_refused() -> None:
    async def test(bench: Bench) -> None:
        await bench.follower.decide(propose(5, 1))
        with pytest.raises(PairingError, match="more than"):
            await bench.follower.decide(propose(5 + MAX_STEP + 1, 2))
        assert (await bench.store.pairing(ALICE_KME)).highest == 5
        assert await bench.follower.decide(propose(5 + MAX_STEP, 2)) is Verdict.EQUAL

    on_a_bench(test)


def test_the_leader_takes_no_proposals() -> None:
    async def main(clock: VirtualClock) -> None:
        end = end_of(ALICE_KME, MemoryStore(ALICE_KME), clock)
        with pytest.raises(PairingError, match="kme-a leads"):
            await Follower(end, Heartbeats(end, ScriptedLink())).decide(propose(1, 1))

    run_virtual(main)


def test_nothing_is_decided_before_this_kme_was_heard() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(BOB_KME)
        end = end_of(BOB_KME, store, clock)
        with pytest.raises(PeerUnavailableError):
            await Follower(end, Heartbeats(end, ScriptedLink())).decide(propose(1, 1))
        assert (await store.pairing(ALICE_KME)).highest == 0

    run_virtual(main)


def test_doubles_that_come_at_once_are_decided_once() -> None:
    async def test(bench: Bench) -> None:
        async def pause() -> None:
            await bench.clock.sleep(0.1)

        bench.faults.pause = pause
        n_settled = 0
        settle = bench.store.settle

        async def count(*arguments: Any) -> None:
            nonlocal n_settled
            n_settled += 1
            await settle(*arguments)

        bench.store.settle = count  # type: ignore[method-assign, assignment]
        proposal = propose(1, 1, 2)
        verdicts = await asyncio.gather(*(bench.follower.decide(proposal) for _ in range(10)))
        assert verdicts == 10 * [Verdict.EQUAL]
        assert n_settled == 1

    on_a_bench(test)


def test_nothing_is_decided_once_a_roll_back_of_the_leader_was_seen() -> None:
    async def test(bench: Bench) -> None:
        for nonce, acknowledged in (("1" * 32, None), ("2" * 32, "1" * 32), ("3" * 32, "2" * 32)):
            beat = Heartbeat(nonce, acknowledged, None, 0, 0, Frontier())
            await bench.heartbeats.on_heartbeat(beat)
        old = Heartbeat("9" * 32, "1" * 32, None, 0, 0, Frontier())
        challenge = (await bench.heartbeats.on_heartbeat(old)).challenge
        await bench.heartbeats.on_heartbeat(replace(old, challenge=challenge))
        bench.heartbeats.require_heard_once()
        with pytest.raises(PeerUnavailableError, match="older state"):
            await bench.follower.decide(propose(1, 1))
        assert (await bench.store.pairing(ALICE_KME)).highest == 0

    on_a_bench(test)
