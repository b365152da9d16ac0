"""What waits is burnt while nothing is made of it, at either end (`kme.pairing.pairing`)."""

import asyncio
import random
from dataclasses import replace

from kme.ids import Epoch, KmeId
from kme.pairing.pairing import Pairing
from kme.pairing.tags import make_tag
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    ScriptedLink,
    config_of,
)
from simulation import VirtualClock, run_virtual
from supply_pair import StoreScript

KEY = random.Random(7).randbytes(600)
REF = FinalKeyRef(LINK, Epoch(7))


class Stage:
    """One KME whose peer agrees with everything; one final key waits at it."""

    def __init__(self, clock: VirtualClock, local: KmeId, peer: KmeId) -> None:
        self.clock, self.peer = clock, peer
        self.script = StoreScript()
        self.store = MemoryStore(local, self.script)
        self.pairing = Pairing(local, self.store, clock, [(config_of(peer), ScriptedLink())])
        self._stop = asyncio.Event()

    async def begin(self) -> None:
        await self.store.ingest(self.peer, LINK, Epoch(7), [Secret(KEY)])
        await self.pairing.on_heartbeat(self.peer, FIRST_HEARTBEAT)
        self._running = asyncio.create_task(self.pairing.run(self._stop))
        await self.clock.sleep(0.1)

    async def end(self) -> None:
        self._stop.set()
        await self._running

    async def burn_while(self, gate: asyncio.Event) -> int:
        """Burn while something is under way that goes on when the gate opens."""
        burning = asyncio.create_task(self.pairing.burn_waiting(self.peer))
        await self.clock.sleep(1)
        assert not burning.done(), "burnt in the midst of it"
        gate.set()
        return await burning


def test_a_proposal_that_is_being_written_keeps_what_it_lists() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock, ALICE_KME, BOB_KME)
        gate = stage.script.hold("after final_keys")
        await stage.begin()
        await clock.sleep(5)
        assert await stage.burn_while(gate) == 1
        await clock.sleep(1)
        last = (await stage.store.pairing(BOB_KME)).last
        assert last is not None
        assert last.verdict is Verdict.EQUAL
        await stage.end()

    run_virtual(main)


def test_a_verdict_that_is_under_way_counts_before_what_waits_is_burnt() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock, BOB_KME, ALICE_KME)
        await stage.begin()
        untagged = Proposal(1, BOB_KME, (REF,), 60, SourceClass.QKD, bytes(16))
        proposal = replace(untagged, tag=make_tag((ALICE_KME, BOB_KME), untagged, Secret(KEY)))
        gate = stage.script.hold("after final_keys")
        deciding = asyncio.create_task(stage.pairing.on_propose(ALICE_KME, proposal))
        await clock.sleep(0.1)
        assert await stage.burn_while(gate) == 1
        assert await deciding is Verdict.EQUAL
        record = await stage.store.pairing(ALICE_KME)
        assert record.last == Settlement(proposal, Verdict.EQUAL)
        await stage.end()

    run_virtual(main)


def test_otherwise_all_that_waits_goes_and_the_number_is_the_highest_seen() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock, BOB_KME, ALICE_KME)
        await stage.begin()
        assert await stage.pairing.burn_waiting(ALICE_KME) == 0
        assert await stage.store.inbox(ALICE_KME, LINK, None, 9) == []
        await stage.end()

    run_virtual(main)
