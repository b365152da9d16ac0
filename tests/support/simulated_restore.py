"""simulated_restore - two simulated KMEs under traffic, whose stores are put back to older copies.

All is judged by the bytes: final keys are random, so eight bytes that are
handed out twice were handed out twice, under whatever number.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from kme.errors import KeyNotFoundError, KmeError, PairingError
from kme.ids import Epoch, KmeId
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import GranuleRange
from simulated_pair import LINK, Chances, SimulatedKme, SimulatedPair
from simulation import SimulatedCrash, VirtualClock

_KEY_BYTES = 600


@dataclass
class Allocated:
    """A granule that a master was given: its place, its owner and its bytes."""

    owner: KmeId
    place: GranuleRange
    key: bytes


@dataclass
class Traffic:
    """All that masters and slaves of both KMEs were given.

    A slave asks for whatever any master was ever given, also again and again.
    """

    pair: SimulatedPair
    allocated: list[Allocated] = field(default_factory=list)
    delivered: dict[KmeId, set[bytes]] = field(default_factory=dict)
    last_epoch: int = 0

    async def feed(self, kmes: Sequence[SimulatedKme]) -> None:
        """Let the link make one final key for these KMEs."""
        present = Epoch.at_time(self.pair.clock.now_s()).number
        self.last_epoch = max(self.last_epoch + 1, present)
        key = self.pair.rng.randbytes(_KEY_BYTES)
        for kme in kmes:
            await kme.ingest(LINK, self.last_epoch, key)

    async def allocate(self, kme: SimulatedKme) -> Allocated | None:
        """Give a master at this KME a key of eight bytes, as the supply does."""
        peer, store = kme.other.local, kme.process_store
        kme.pairing.require_alive(peer)
        claim = await store.claim(peer, "w", 1, 1)
        if claim is None:
            return None
        await kme.pairing.heartbeat_from_now(peer)
        block = await store.block(peer, claim.reserved.block_number)
        kme.pairing.require_alive(peer)
        assert block is not None
        key = _bytes_of(block.key, claim.reserved)
        assert key not in {one.key for one in self.allocated}, "allocated twice"
        self.allocated.append(Allocated(kme.local, claim.reserved, key))
        return self.allocated[-1]

    async def draw(self, kme: SimulatedKme, wanted: Allocated) -> None:
        """Give a slave at this KME its key, as the supply does."""
        peer, store = kme.other.local, kme.process_store
        assert wanted.owner == peer
        kme.pairing.require_heard_once(peer)
        block = await store.block(peer, wanted.place.block_number)
        if block is None:
            raise KeyNotFoundError("that block is not here, or used up")
        if _bytes_of(block.key, wanted.place) != wanted.key:
            raise PairingError("the id's tag is wrong here")
        await store.draw(peer, [wanted.place])
        delivered = self.delivered.setdefault(kme.local, set())
        assert wanted.key not in delivered, "delivered twice"
        delivered.add(wanted.key)

    async def go_on(self) -> None:
        """Feed, allocate and draw until cancelled."""
        rng = self.pair.rng
        while True:
            await self.pair.clock.sleep(rng.uniform(0.05, 0.4))
            kme = rng.choice(self.pair.both)
            with contextlib.suppress(KmeError, SimulatedCrash):
                what = rng.random()
                if what < 0.2:
                    await self.feed(self.pair.both)
                elif what < 0.6:
                    await self.allocate(kme)
                else:
                    there = [one for one in self.allocated if one.owner != kme.local]
                    if there:
                        await self.draw(kme, rng.choice(there[-20:]))

    async def works(self) -> bool:
        """Return whether new keys are made and go through in both directions just now."""
        for kme in self.pair.both:
            await self.feed(self.pair.both)
            try:
                got = await self.allocate(kme)
                if got is None:
                    return False
                await self.draw(kme.other, got)
            except (KmeError, SimulatedCrash):  # an old process may still have its day to die
                return False
        return True


class RestorePair(SimulatedPair):
    """A simulated pair whose stores may be put back."""

    def __init__(self, clock: VirtualClock, seed: int, chances: Chances | None = None) -> None:
        super().__init__(clock, seed, chances)
        for kme in self.both:
            kme.store = MemoryStore(kme.local)
        self.traffic = Traffic(self)
        self._going: list[asyncio.Task[None]] = []

    def begin(self, alice_steps: int | None = None, bob_steps: int | None = None) -> None:
        super().begin(alice_steps, bob_steps)
        self._going = [asyncio.create_task(self.traffic.go_on()) for _ in range(3)]

    async def end(self) -> None:
        await self.rest()
        await super().end()

    async def rest(self) -> None:
        """Let the traffic end."""
        for task in self._going:
            task.cancel()
        for result in await asyncio.gather(*self._going, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError | None):
                raise result
        self._going = []

    async def put_back(self, kme: SimulatedKme, backup: MemoryStore, *, marks: bool = True) -> None:
        """Kill a KME and let its next process find this copy, marked as the command does."""
        kme.fuse.blow()
        kme.store = backup
        if marks:
            await backup.mark_restored(self.token())

    async def check_blocks(self) -> None:
        """Hold that what both may use is the same at both."""
        floor, highest = 0, 0
        for kme in self.both:
            record = await kme.store.pairing(kme.other.local)
            floor = max(floor, record.floor_allocate)
            highest = max(highest, record.highest)
        for number in range(floor + 1, highest + 1):
            keys = []
            for kme in self.both:
                block = await kme.store.block(kme.other.local, number)
                keys.append(block and block.key.reveal())
            assert None in keys or keys[0] == keys[1]


def _bytes_of(key: Secret, place: GranuleRange) -> bytes:
    return key.reveal()[8 * place.start : 8 * place.stop]
