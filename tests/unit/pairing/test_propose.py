import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kme.errors import PairingError, PeerUnavailableError, StoreUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.heartbeat import Heartbeats
from kme.pairing.ports import HeartbeatAnswer, HeartbeatOutcome
from kme.pairing.propose import Leader
from kme.pairing.tags import has_right_tag
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import (
    FinalKeyRef,
    IncidentKind,
    PairingRecord,
    Proposal,
    SourceClass,
    Verdict,
)
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    OTHER_LINK,
    ScriptedLink,
    end_of,
)
from simulation import VirtualClock, run_virtual


@dataclass
class Bench:
    """The leader kme-a, and a script for the follower."""

    clock: VirtualClock
    store: MemoryStore
    link: ScriptedLink
    heartbeats: Heartbeats
    leader: Leader
    beating: "asyncio.Task[None] | None" = None
    free_bytes: int = 0
    keys: dict[FinalKeyRef, bytes] = field(default_factory=dict)

    async def ingest(self, epoch: int, n_bytes: int = 600, source: SourceId = LINK) -> None:
        key = random.Random(epoch).randbytes(n_bytes)
        self.keys[FinalKeyRef(source, Epoch(epoch))] = key
        await self.store.ingest(BOB_KME, source, Epoch(epoch), [Secret(key)])

    async def begin(self) -> None:
        self.link.on_heartbeat = lambda _: HeartbeatAnswer(
            HeartbeatOutcome.ACCEPTED, None, 0, self.free_bytes
        )
        self.beating = asyncio.create_task(self.heartbeats.run())
        await self.heartbeats.on_heartbeat(FIRST_HEARTBEAT)
        await self.clock.sleep(0.5)

    async def form(self) -> Proposal:
        """Let one block be proposed and settled."""
        async with asyncio.timeout(10):
            while not await self.leader.step():
                await self.clock.sleep(0.5)
        return self.link.proposals[-1]

    async def record(self) -> PairingRecord:
        return await self.store.pairing(BOB_KME)


def on_a_bench(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        store, link = MemoryStore(ALICE_KME), ScriptedLink()
        end = end_of(ALICE_KME, store, clock)
        heartbeats = Heartbeats(end, link)
        bench = Bench(clock, store, link, heartbeats, Leader(end, link, heartbeats))
        try:
            await test(bench)
        finally:
            if bench.beating is not None:
                bench.beating.cancel()

    run_virtual(main)


def unreachable(_proposal: Proposal) -> Verdict:
    raise PeerUnavailableError("no route")


def test_what_both_hold_becomes_a_block() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(2)
        await bench.ingest(1)
        proposal = await bench.form()
        refs = (FinalKeyRef(LINK, Epoch(1)), FinalKeyRef(LINK, Epoch(2)))
        assert (proposal.number, proposal.entries) == (1, refs)
        assert (proposal.source_class, proposal.lifetime_s) == (SourceClass.QKD, 86_400)
        block = await bench.store.block(BOB_KME, 1)
        assert block is not None
        assert block.key == Secret(bench.keys[refs[0]] + bench.keys[refs[1]])
        assert has_right_tag((ALICE_KME, BOB_KME), proposal, block.key)
        record = await bench.record()
        assert (record.open_proposal, record.peer_settled, record.highest) == (None, 1, 1)
        assert await bench.store.inbox(BOB_KME, LINK, None, 9) == []

    on_a_bench(test)


def test_nothing_is_sent_before_the_peer_is_alive() -> None:
    async def test(bench: Bench) -> None:
        await bench.ingest(1)
        with pytest.raises(PeerUnavailableError):
            await bench.leader.step()
        assert bench.link.asked == []
        assert (await bench.record()).highest == 0

    on_a_bench(test)


def test_a_leader_with_nothing_to_do_looks_at_the_inbox_only() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        assert not await bench.leader.step()
        n_readings, pairing = 0, bench.store.pairing

        async def count(peer: KmeId) -> PairingRecord:
            nonlocal n_readings
            n_readings += 1
            return await pairing(peer)

        bench.store.pairing = count  # type: ignore[method-assign]
        for _ in range(5):
            assert not await bench.leader.step()
        assert n_readings == 0
        await bench.ingest(1)
        assert (await bench.form()).number == 1
        assert n_readings > 0

    on_a_bench(test)


def test_a_proposal_is_durable_before_it_is_sent_and_stays_open_until_it_is_settled() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(1)
        opened: list[Proposal] = []
        keep = bench.store.open_proposal

        async def watch(peer: KmeId, proposal: Proposal) -> None:
            assert proposal not in bench.link.proposals
            opened.append(proposal)
            await keep(peer, proposal)

        bench.store.open_proposal = watch  # type: ignore[method-assign]
        bench.link.on_propose = unreachable
        with pytest.raises(PeerUnavailableError):
            await bench.form()
        await bench.ingest(2)
        for _ in range(3):
            with pytest.raises(PeerUnavailableError):
                await bench.leader.step()
        assert (await bench.record()).open_proposal == opened[0]
        bench.link.on_propose = lambda _: Verdict.EQUAL
        assert await bench.leader.step()
        assert bench.link.proposals == 5 * opened
        assert (await bench.form()).number == 2

    on_a_bench(test)


def test_another_process_resumes_the_open_proposal() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(1)
        bench.link.on_propose = unreachable
        with pytest.raises(PeerUnavailableError):
            await bench.form()
        first = bench.link.proposals[0]
        end = end_of(ALICE_KME, bench.store, bench.clock)
        bench.link.on_propose = lambda _: Verdict.EQUAL
        assert await Leader(end, bench.link, bench.heartbeats).step()
        assert bench.link.proposals == [first, first]
        assert await bench.store.block(BOB_KME, 1) is not None

    on_a_bench(test)


def test_an_outage_after_settling_is_made_up_for() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(1)
        mark = bench.store.raise_peer_settled

        async def refuse(peer: KmeId, number: int) -> None:
            raise StoreUnavailableError("sealed")

        bench.store.raise_peer_settled = refuse  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            await bench.form()
        assert (await bench.record()).peer_settled == 0
        bench.store.raise_peer_settled = mark  # type: ignore[method-assign]
        assert not await bench.leader.step()
        assert (await bench.record()).peer_settled == 1

    on_a_bench(test)


@pytest.mark.parametrize("verdict", [Verdict.VOID, Verdict.UNEQUAL])
def test_what_is_not_equal_is_burnt_and_the_next_number_follows(verdict: Verdict) -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(1)
        bench.link.on_propose = lambda _: verdict
        await bench.form()
        assert await bench.store.inbox(BOB_KME, LINK, None, 9) == []
        assert await bench.store.block(BOB_KME, 1) is None
        incidents = await bench.store.incidents(9)
        if verdict is Verdict.VOID:
            assert incidents == []
        else:
            assert [incident.kind for incident in incidents] == [IncidentKind.UNEQUAL_BLOCK]
            assert "block 1: 1 final keys of source link" in incidents[0].details
        bench.link.on_propose = lambda _: Verdict.EQUAL
        await bench.ingest(2)
        assert (await bench.form()).number == 2
        assert (await bench.record()).peer_settled == 2

    on_a_bench(test)


def test_a_refused_proposal_stays_open_and_raises_one_alarm() -> None:
    async def test(bench: Bench) -> None:
        def refuse(_proposal: Proposal) -> Verdict:
            raise PairingError("no such source here")

        await bench.begin()
        await bench.ingest(1)
        bench.link.on_propose = refuse
        for _ in range(4):
            with pytest.raises(PairingError):
                await bench.form()
        assert (await bench.record()).open_proposal is not None
        incidents = await bench.store.incidents(9)
        assert [incident.kind for incident in incidents] == [IncidentKind.BROKEN_PROPOSAL]
        assert "no such source here" in incidents[0].details

    on_a_bench(test)


def test_a_proposal_that_was_given_up_meanwhile_raises_no_alarm_if_it_is_refused() -> None:
    async def test(bench: Bench) -> None:
        def refuse(_proposal: Proposal) -> Verdict:
            bench.store._state.pair(BOB_KME).retire(ALICE_KME, BOB_KME)
            raise PairingError("judged all numbers")

        await bench.begin()
        await bench.ingest(1)
        bench.link.on_propose = refuse
        with pytest.raises(PairingError):
            await bench.form()
        assert await bench.store.incidents(9) == []

    on_a_bench(test)


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_equal_means_nothing_if_what_was_proposed_is_no_longer_here(what: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        await bench.ingest(1)

        def lose_entries(_proposal: Proposal) -> Verdict:
            ref = FinalKeyRef(LINK, Epoch(1))
            keys = bench.store._state.pair(BOB_KME).inbox.keys
            if what == "gone":
                del keys[ref]
            else:
                keys[ref] = Secret(bytes(len(keys[ref])))
            return Verdict.EQUAL

        bench.link.on_propose = lose_entries
        with pytest.raises(PairingError, match="changed or gone"):
            await bench.form()
        assert (await bench.record()).last is None
        assert (await bench.store.incidents(1))[0].kind is IncidentKind.BROKEN_PROPOSAL

    on_a_bench(test)


def test_what_vanished_before_it_was_proposed_is_left_out() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        for epoch in (1, 2, 3):
            await bench.ingest(epoch)
        assert not await bench.leader.step()
        await bench.clock.sleep(3)
        keys = bench.store._state.pair(BOB_KME).inbox.keys
        del keys[FinalKeyRef(LINK, Epoch(2))]
        proposal = await bench.form()
        assert [ref.epoch.number for ref in proposal.entries] == [1, 3]
        await bench.ingest(4)
        assert not await bench.leader.step()
        await bench.clock.sleep(3)
        del keys[FinalKeyRef(LINK, Epoch(4))]
        assert not await bench.leader.step()
        assert (await bench.record()).highest == 1

    on_a_bench(test)


def test_a_block_has_one_source_and_all_sources_have_their_turn() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        for epoch in range(1, 5):
            await bench.ingest(epoch, 40_000, LINK)
            await bench.ingest(epoch, 40_000, OTHER_LINK)
        proposals = [await bench.form() for _ in range(6)]
        assert {proposal.source for proposal in proposals[:2]} == {LINK, OTHER_LINK}
        assert {proposal.source for proposal in proposals[2:4]} == {LINK, OTHER_LINK}
        classes = {proposal.source: proposal.source_class for proposal in proposals}
        assert classes == {LINK: SourceClass.QKD, OTHER_LINK: SourceClass.RANDOM}

    on_a_bench(test)


def test_equal_stocks_take_turns() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        bench.link.on_propose = lambda _: Verdict.VOID
        owners = []
        for epoch in range(1, 5):
            await bench.ingest(epoch)
            owners.append((await bench.form()).owner)
            await bench.clock.sleep(1)
        assert owners == [ALICE_KME, BOB_KME, ALICE_KME, BOB_KME]

    on_a_bench(test)


def test_who_has_less_in_stock_gets_the_next_block() -> None:
    async def test(bench: Bench) -> None:
        bench.free_bytes = 2000
        await bench.begin()
        owners = []
        for epoch in range(1, 5):
            await bench.ingest(epoch, 1064)
            owners.append((await bench.form()).owner)
            await bench.clock.sleep(2)
        # Alice has 0, 1000, 2000 (a tie, and block 3 is hers), 3000 bytes; bob says 2000.
        assert owners == [ALICE_KME, ALICE_KME, ALICE_KME, BOB_KME]

    on_a_bench(test)


def test_blocks_given_since_the_last_report_count() -> None:
    async def test(bench: Bench) -> None:
        await bench.begin()
        assert bench.beating is not None
        bench.beating.cancel()
        owners = []
        for epoch in range(1, 5):
            await bench.ingest(epoch, 65_000)
        for _ in range(4):
            proposal = await asyncio.wait_for(bench.form(), 4)
            owners.append(proposal.owner)
        assert owners.count(ALICE_KME) == owners.count(BOB_KME) == 2

    on_a_bench(test)


def test_while_both_stocks_are_full_final_keys_wait_and_then_make_the_next_block() -> None:
    async def test(bench: Bench) -> None:
        bench.leader = Leader(
            replace(
                bench.leader._end,
                config=replace(bench.leader._end.config, max_stock_bytes=64 * 1024),
            ),
            bench.link,
            bench.heartbeats,
        )
        bench.free_bytes = 64 * 1024
        await bench.begin()
        for epoch in (1, 2):
            await bench.ingest(epoch, 60_000)
            bench.free_bytes = 128 * 1024
            await bench.form()
        await bench.ingest(4)
        for _ in range(100):
            assert not await bench.leader.step()
            await bench.clock.sleep(0.5)
        assert len(await bench.store.inbox(BOB_KME, LINK, None, 10)) == 1
        while (await bench.store.stock(BOB_KME)).n_bytes >= 64 * 1024:
            assert await bench.store.claim(BOB_KME, "worker", 1, 8000) is not None
        assert (await bench.form()).entries == (FinalKeyRef(LINK, Epoch(4)),)

    on_a_bench(test)
