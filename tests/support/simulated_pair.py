"""simulated_pair - two KMEs that pair with each other in virtual time, and may die at any step."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.pair import PairEnd, PeerConfig
from kme.pairing.pairing import Pairing
from kme.pairing.ports import (
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    PeerHandler,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.ports import Store
from kme.store.records import (
    Expiry,
    FinalKeyRef,
    Frontier,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from simulation import (
    CrashingStore,
    Fuse,
    LinkEnds,
    LinkFaults,
    LossyLink,
    SimulatedCrash,
    StoreFaults,
    VirtualClock,
)

ALICE_KME = KmeId("kme-a")
BOB_KME = KmeId("kme-b")
LINK = SourceId("link")
OTHER_LINK = SourceId("other")
SOURCES = {LINK: SourceClass.QKD, OTHER_LINK: SourceClass.RANDOM}
LIFETIME_S = 4
"""So short in simulations that what must not expire would."""


def config_of(peer: KmeId) -> PeerConfig:
    """Return what a KME of the simulation knows about its peer."""
    return PeerConfig(
        peer,
        SOURCES,
        heartbeat_interval_s=1.0,
        lease_s=5.0,
        gather_s=2.0,
        poll_s=0.5,
        max_backoff_s=4.0,
    )


def end_of(local: KmeId, store: Store, clock: VirtualClock) -> PairEnd:
    """Return one end of the simulated pair."""
    return PairEnd(local, config_of(BOB_KME if local == ALICE_KME else ALICE_KME), store, clock)


class ScriptedLink:
    """A `PeerLink` whose answers are functions that a test can exchange."""

    def __init__(self) -> None:
        self.on_heartbeat: Callable[[Heartbeat], HeartbeatAnswer] = accepted
        self.on_held: Callable[[Sequence[FinalKeyRef]], list[FinalKeyRef]] = list
        self.on_propose: Callable[[Proposal], Verdict] = lambda _: Verdict.EQUAL
        self.heartbeats: list[Heartbeat] = []
        self.asked: list[FinalKeyRef] = []
        self.proposals: list[Proposal] = []
        self.on_ask_restore: Callable[[str], RestoreChallenge] = lambda _: RestoreChallenge(
            "c" * 32, is_restoring=False
        )
        self.on_agree_restore: Callable[[RestoreTerms], RestoreConsent] = lambda terms: (
            RestoreConsent(terms.highest, None, {})
        )
        self.restores: list[str | RestoreTerms] = []

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        self.heartbeats.append(heartbeat)
        await asyncio.sleep(0.01)
        return self.on_heartbeat(heartbeat)

    async def held(self, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        self.asked += refs
        return self.on_held(refs)

    async def propose(self, proposal: Proposal) -> Verdict:
        self.proposals.append(proposal)
        return self.on_propose(proposal)

    async def ask_restore(self, incarnation: str) -> RestoreChallenge:
        self.restores.append(incarnation)
        return self.on_ask_restore(incarnation)

    async def agree_restore(self, terms: RestoreTerms) -> RestoreConsent:
        self.restores.append(terms)
        return self.on_agree_restore(terms)


def accepted(_heartbeat: Heartbeat) -> HeartbeatAnswer:
    """Answer as a peer that has nothing yet."""
    return HeartbeatAnswer(HeartbeatOutcome.ACCEPTED, None, 0, 0)


FIRST_HEARTBEAT = Heartbeat("f" * 32, None, None, 0, 0, Frontier())
"""What a peer sends that was never heard before."""


class Witness:
    """Sees every durable write of pairing at both KMEs, and fails when a rule is broken."""

    def __init__(self) -> None:
        self.n_expiries = 0
        self.proposals: dict[int, Proposal] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.digests: dict[int, bytes] = {}
        self.settled: dict[KmeId, list[int]] = {ALICE_KME: [], BOB_KME: []}
        self._number_of: dict[object, int] = {}

    def saw_proposal(self, proposal: Proposal) -> None:
        assert self.proposals.setdefault(proposal.number, proposal) == proposal, "reused number"
        for ref in proposal.entries:
            number = self._number_of.setdefault(ref, proposal.number)
            assert number == proposal.number, f"{ref} is in blocks {number}, {proposal.number}"

    def saw_settlement(self, kme: KmeId, settlement: Settlement, key: Secret | None) -> None:
        number = settlement.proposal.number
        self.saw_proposal(settlement.proposal)
        verdict = self.verdicts.setdefault(number, settlement.verdict)
        assert verdict is settlement.verdict, f"two verdicts on block {number}"
        if key is not None:
            digest = hashlib.sha256(key.reveal()).digest()
            assert self.digests.setdefault(number, digest) == digest, f"block {number} differs"
        done = self.settled[kme]
        if number not in done:
            assert not done or done[-1] < number, "numbers settled out of order"
            done.append(number)

    def saw_peer_settled(self, kme: KmeId, number: int) -> None:
        other = ALICE_KME if kme == BOB_KME else BOB_KME
        mine = {n for n in self.settled[kme] if n <= number}
        assert mine <= set(self.settled[other]), f"{kme} may allocate what {other} lacks"


class WatchedStore(MemoryStore):
    """A store whose writes the witness sees."""

    witness: Witness

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        await super().open_proposal(peer, proposal)
        self.witness.saw_proposal(proposal)

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        await super().settle(peer, settlement, key)
        self.witness.saw_settlement(self.kme, settlement, key)

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        await super().raise_peer_settled(peer, number)
        self.witness.saw_peer_settled(self.kme, number)

    async def note_expiry(self, peer: KmeId, expiry: Expiry) -> None:
        await super().note_expiry(peer, expiry)
        self.witness.n_expiries += 1


@dataclass
class Chances:
    """How bad the world is; shared by both KMEs, and changed while it turns.

    Parameters
    ----------
    link
        Of both directions.
    unavailable
        Probability that a call to a store fails.
    max_pause_s
        Calls to a store take up to twice so long.
    max_life_steps
        A process dies after at most so many steps; never if None.
    max_down_s
        For how long it stays down.
    """

    link: LinkFaults = field(default_factory=LinkFaults)
    unavailable: float = 0.0
    max_pause_s: float = 0.0
    max_life_steps: int | None = None
    max_down_s: float = 3.0

    def heal(self) -> None:
        """Let everything go well from now on."""
        self.link.heal()
        self.unavailable = self.max_pause_s = 0.0
        self.max_life_steps = None


class SimulatedKme:
    """One KME: a store that stays, and one process after the other that works on it."""

    def __init__(self, pair: "SimulatedPair", local: KmeId, store: MemoryStore) -> None:
        self.pair = pair
        self.local = local
        self.store = store
        self.fuse = Fuse()
        self.n_starts = 0
        self.pairing: Pairing
        self.link: LossyLink
        self.process_store: CrashingStore

    @property
    def other(self) -> "SimulatedKme":
        return self.pair.bob if self is self.pair.alice else self.pair.alice

    def handler(self) -> PeerHandler | None:
        """Return what peers reach now."""
        return self.pairing if self.n_starts and not self.fuse.is_blown else None

    async def live(self, stop: asyncio.Event, first_life_steps: int | None = None) -> None:
        """Run one process after the other until told to stop."""
        while True:
            dying = asyncio.create_task(self._run_process(stop, first_life_steps))
            await dying
            if stop.is_set():
                return
            first_life_steps = None
            await self.pair.clock.sleep(self.pair.rng.uniform(0.1, self.pair.chances.max_down_s))

    async def _run_process(self, stop: asyncio.Event, life_steps: int | None) -> None:
        self.start(life_steps)
        running = asyncio.create_task(self.pairing.run(stop))
        dying = asyncio.create_task(self.fuse.blown.wait())
        await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, dying):
            task.cancel()
        results = await asyncio.gather(running, dying, return_exceptions=True)
        for error in results:
            raise_unless_crash(error)

    def start(self, life_steps: int | None = None) -> None:
        """Make a new process; the loops of it are the caller's matter."""
        pair, chances = self.pair, self.pair.chances
        if life_steps is None and chances.max_life_steps is not None:
            life_steps = pair.rng.randint(1, chances.max_life_steps)
        self.fuse = Fuse(life_steps)
        self.n_starts += 1
        faults = StoreFaults(pair.pause, chances.unavailable, pair.rng)
        store = CrashingStore(self.store, self.fuse, faults)
        pair.store_faults.append(faults)
        self.process_store = store
        ends = LinkEnds(self.local, self.other.handler, self.fuse)
        self.link = LossyLink(ends, chances.link, pair.clock, pair.rng)
        config = replace(config_of(self.other.local), lifetime_s=LIFETIME_S)
        self.pairing = Pairing(self.local, store, pair.clock, [(config, self.link)], pair.token)

    async def ingest(self, source: SourceId, epoch: int, *parts: bytes) -> None:
        """Put a final key into the inbox, behind the back of the process."""
        secrets = [Secret(part) for part in parts]
        await self.store.ingest(self.other.local, source, Epoch(epoch), secrets)


def raise_unless_crash(error: object) -> None:
    """Let every error through but those of a simulated crash."""
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split((SimulatedCrash, asyncio.CancelledError))
        if rest is not None:
            raise rest
    elif isinstance(error, BaseException) and not isinstance(
        error, SimulatedCrash | asyncio.CancelledError
    ):
        raise error


class SimulatedPair:
    """Two KMEs, their links, and the dice that decide what goes wrong."""

    def __init__(self, clock: VirtualClock, seed: int, chances: Chances | None = None) -> None:
        self.clock = clock
        self.rng = random.Random(seed)
        self.chances = chances or Chances()
        self.witness = Witness()
        self.store_faults: list[StoreFaults] = []
        self.alice = SimulatedKme(self, ALICE_KME, self._store(ALICE_KME))
        self.bob = SimulatedKme(self, BOB_KME, self._store(BOB_KME))
        self.stop = asyncio.Event()
        self._lives: list[asyncio.Task[None]] = []

    @property
    def both(self) -> tuple[SimulatedKme, SimulatedKme]:
        return self.alice, self.bob

    def token(self) -> str:
        return f"{self.rng.getrandbits(128):032x}"

    async def pause(self) -> None:
        if self.chances.max_pause_s:
            await self.clock.sleep(self.rng.uniform(0, self.chances.max_pause_s))

    def heal(self) -> None:
        """Let everything go well from now on, in processes that run already too."""
        self.chances.heal()
        for faults in self.store_faults:
            faults.unavailable = 0.0

    def begin(self, alice_steps: int | None = None, bob_steps: int | None = None) -> None:
        """Start both KMEs, each perhaps with a process that dies at a certain step."""
        self._lives = [
            asyncio.create_task(self.alice.live(self.stop, alice_steps)),
            asyncio.create_task(self.bob.live(self.stop, bob_steps)),
        ]

    async def end(self) -> None:
        """Stop both, and fail with what failed in them."""
        self.stop.set()
        done, pending = await asyncio.wait(self._lives, timeout=60)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
        assert not pending
        for kme in self.both:
            await kme.link.quiet()

    async def until(
        self, condition: Callable[[], Awaitable[bool]], timeout_s: float = 120.0
    ) -> None:
        """Wait for something to come true.

        Raises
        ------
        TimeoutError
            If it doesn't within so many virtual seconds.
        """
        async with asyncio.timeout(timeout_s):
            while not await condition():
                for task in self._lives:
                    if task.done():
                        task.result()
                await self.clock.sleep(0.25)

    def _store(self, kme: KmeId) -> WatchedStore:
        store = WatchedStore(kme)
        store.witness = self.witness
        return store
