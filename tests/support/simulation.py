"""simulation - two KMEs in one event loop: virtual time, links that lose, processes that die.

What runs in `run_virtual` sees a clock that jumps from one timer to the next,
so that a day takes a moment and every run with the same seed is the same run.
No threads and no sockets belong there: time would jump while they work.

A process is what shares one `Fuse`. When the fuse blows, `SimulatedCrash`
leaves every call of that process to its store and its links, now and later,
as if it had been killed there; its store (the one inside `CrashingStore`)
keeps what was written, and a new process starts from that with a new fuse.
"""

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kme.errors import KmeError, PairingError, PeerUnavailableError, StoreUnavailableError
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.pairing.ports import (
    Heartbeat,
    HeartbeatAnswer,
    PeerHandler,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.secret import Secret
from kme.store.grants import Grant, KeptGrant
from kme.store.ports import Store
from kme.store.records import (
    Claim,
    Expiry,
    FinalKey,
    FinalKeyRef,
    Frontier,
    GranuleRange,
    HeartbeatRecord,
    InboxEntry,
    Incident,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    Stock,
    Verdict,
)
from kme.store.restore import RestoreAgreement

T = TypeVar("T")


class SimulatedCrash(BaseException):
    """The process died here. Not an Exception: no handler of the code may survive it."""


class Stalled(Exception):  # noqa: N818 - a state of the simulation
    """Nothing is ready and no timer runs: every task waits for ever."""


class VirtualClock:
    """A `kme.clock.Clock` that moves only when it is told to, or in `run_virtual`.

    Parameters
    ----------
    start_unix_s
        Universal time at the start; monotonic time starts at 1000 s.
    """

    def __init__(self, start_unix_s: float = 1_750_000_000.0) -> None:
        self._monotonic_s = 1000.0
        self._unix_minus_monotonic_s = start_unix_s - self._monotonic_s

    def now_s(self) -> float:
        """Return the universal time in seconds since 1970."""
        return self._monotonic_s + self._unix_minus_monotonic_s

    def monotonic_s(self) -> float:
        """Return virtual seconds."""
        return self._monotonic_s

    async def sleep(self, duration_s: float) -> None:
        """Wait in the running event loop; the one of `run_virtual` jumps there."""
        await asyncio.sleep(duration_s)

    def advance(self, duration_s: float) -> None:
        """Let time pass."""
        self._monotonic_s += max(0.0, duration_s)

    def jump(self, duration_s: float) -> None:
        """Set the universal time forward or back, and leave the monotonic one alone."""
        self._unix_minus_monotonic_s += duration_s


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for the next timer, moves the clock there."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return []  # there is something to run; whatever else is ready waits that long
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stalled("every task waits and no timer runs")
        self._clock.advance(timeout)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._virtual_clock = clock

    def time(self) -> float:
        return self._virtual_clock.monotonic_s()


def run_virtual(main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time and return what it returns.

    Raises
    ------
    Stalled
        If all its tasks wait for something that never comes.
    """
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: _VirtualLoop(clock)) as runner:
        return runner.run(main(clock))


class Fuse:
    """The life of one process: it ends at a given step, or when told to.

    Parameters
    ----------
    blows_at
        Die at this step, counted from 1: there is one before and one after
        each call to the store and each message sent. Never if None.
    """

    def __init__(self, blows_at: int | None = None) -> None:
        self.n_steps = 0
        self.blown = asyncio.Event()
        self._blows_at = blows_at

    @property
    def is_blown(self) -> bool:
        """Whether the process is dead."""
        return self.blown.is_set()

    def blow(self) -> None:
        """Kill the process."""
        self.blown.set()

    def step(self) -> None:
        """Count a step; a dead process gets no further."""
        self.n_steps += 1
        if self.n_steps == self._blows_at:
            self.blow()
        if self.is_blown:
            raise SimulatedCrash


async def _no_pause() -> None:
    """Go on at once."""


@dataclass
class StoreFaults:
    """What else may happen at a store.

    Parameters
    ----------
    pause
        Awaited before and after each call, to shuffle the order of things.
    unavailable
        Probability that a call raises `StoreUnavailableError`, half of them
        after it took effect.
    rng
        Where the dice come from.
    """

    pause: Callable[[], Awaitable[None]] = _no_pause
    unavailable: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))


class CrashingStore:
    """A store as one process sees it: the process may die before or after any call.

    Parameters
    ----------
    inner
        What survives the process.
    fuse
        The process's life.
    faults
        Delays and outages.
    """

    def __init__(self, inner: Store, fuse: Fuse, faults: StoreFaults | None = None) -> None:
        self.inner = inner
        self.fuse = fuse
        self.faults = faults or StoreFaults()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        faults = self.faults
        fails = faults.rng.random() < faults.unavailable
        fails_before = fails and faults.rng.random() < 0.5
        await faults.pause()
        self.fuse.step()
        if fails_before:
            raise StoreUnavailableError("simulated outage before the call")
        result = await call()
        self.fuse.step()
        await faults.pause()
        if fails:
            raise StoreUnavailableError("simulated outage after the call")
        return result

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        return await self._call(lambda: self.inner.ingest(peer, source, epoch, parts))

    async def inbox(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        return await self._call(lambda: self.inner.inbox(peer, source, after, limit))

    async def n_waiting(self, peer: KmeId, source: SourceId, most: int) -> int:
        return await self._call(lambda: self.inner.n_waiting(peer, source, most))

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        return await self._call(lambda: self.inner.held(peer, refs))

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        return await self._call(lambda: self.inner.final_keys(peer, refs))

    async def burn_inbox(self, peer: KmeId) -> int:
        return await self._call(lambda: self.inner.burn_inbox(peer))

    async def pairing(self, peer: KmeId) -> PairingRecord:
        return await self._call(lambda: self.inner.pairing(peer))

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        await self._call(lambda: self.inner.open_proposal(peer, proposal))

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        await self._call(lambda: self.inner.settle(peer, settlement, key))

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        await self._call(lambda: self.inner.raise_peer_settled(peer, number))

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None:
        await self._call(lambda: self.inner.raise_floors(peer, allocate, draw))

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        return await self._call(lambda: self.inner.block(peer, number))

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        return await self._call(lambda: self.inner.claim(peer, worker, min_granules, want_granules))

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        await self._call(lambda: self.inner.give_back(peer, claim, untouched_from))

    async def close_claims(self, worker: str | None = None) -> int:
        return await self._call(lambda: self.inner.close_claims(worker))

    async def stock(self, peer: KmeId) -> Stock:
        return await self._call(lambda: self.inner.stock(peer))

    async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
        await self._call(lambda: self.inner.draw(peer, ranges))

    async def frontier(self, peer: KmeId) -> Frontier:
        return await self._call(lambda: self.inner.frontier(peer))

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        return await self._call(lambda: self.inner.expiries(peer))

    async def note_expiry(self, peer: KmeId, expiry: Expiry) -> None:
        await self._call(lambda: self.inner.note_expiry(peer, expiry))

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        return await self._call(lambda: self.inner.expire(peer, now_unix_s))

    async def keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        await self._call(lambda: self.inner.keep_grants(peer, grants))

    async def grants(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        return await self._call(lambda: self.inner.grants(peer, key_ids))

    async def take_grants(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        await self._call(lambda: self.inner.take_grants(peer, slave, key_ids))

    async def purge_grants(self, now_unix_s: float, limit: int) -> int:
        return await self._call(lambda: self.inner.purge_grants(now_unix_s, limit))

    async def heartbeat(self, peer: KmeId) -> HeartbeatRecord:
        return await self._call(lambda: self.inner.heartbeat(peer))

    async def begin_heartbeat(
        self, peer: KmeId, nonce: str, accepted: str | None
    ) -> HeartbeatRecord:
        return await self._call(lambda: self.inner.begin_heartbeat(peer, nonce, accepted))

    async def accept_heartbeat(
        self, peer: KmeId, nonce: str, acknowledged: str | None
    ) -> HeartbeatRecord:
        return await self._call(lambda: self.inner.accept_heartbeat(peer, nonce, acknowledged))

    async def mark_restored(self, incarnation: str) -> None:
        await self._call(lambda: self.inner.mark_restored(incarnation))

    async def restoring(self, peer: KmeId) -> str | None:
        return await self._call(lambda: self.inner.restoring(peer))

    async def highest_epochs(self, peer: KmeId) -> Mapping[SourceId, Epoch]:
        return await self._call(lambda: self.inner.highest_epochs(peer))

    async def agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        await self._call(lambda: self.inner.agree_restore(peer, agreement))

    async def accept_restore(self, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        return await self._call(lambda: self.inner.accept_restore(peer, nonce, highest))

    async def retire(self, peer: KmeId) -> int:
        return await self._call(lambda: self.inner.retire(peer))

    async def record_incident(self, incident: Incident) -> None:
        await self._call(lambda: self.inner.record_incident(incident))

    async def incidents(self, limit: int) -> list[Incident]:
        return await self._call(lambda: self.inner.incidents(limit))

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class LinkFaults:
    """How bad a link is; change it while it runs to cut or to heal it.

    Parameters
    ----------
    drop
        Probability that a message never arrives.
    lose_answer
        Probability that the answer to a delivered message never arrives.
    duplicate
        Probability that a message arrives a second time, later.
    max_delay_s
        Messages and answers take up to so long, so they overtake each other.
    """

    drop: float = 0.0
    lose_answer: float = 0.0
    duplicate: float = 0.0
    max_delay_s: float = 0.0

    def heal(self) -> None:
        """Lose, double and delay nothing any more."""
        self.drop = self.lose_answer = self.duplicate = self.max_delay_s = 0.0


@dataclass
class LinkEnds:
    """Who sends to whom.

    Parameters
    ----------
    local
        The sender.
    handler
        Returns the receiver's process as it is now; None if it is down.
    fuse
        The sending process's life.
    """

    local: KmeId
    handler: Callable[[], PeerHandler | None]
    fuse: Fuse = field(default_factory=Fuse)


class LossyLink:
    """A `PeerLink` in memory that drops, delays, doubles and overtakes.

    A message that the sender gave up waiting for may still arrive.

    Parameters
    ----------
    ends
        Sender and receiver.
    faults
        How bad it is.
    clock
        Virtual time.
    rng
        Where the dice come from.
    timeout_s
        How long the sender waits for an answer.
    """

    def __init__(
        self,
        ends: LinkEnds,
        faults: LinkFaults,
        clock: VirtualClock,
        rng: random.Random,
        timeout_s: float = 2.0,
    ) -> None:
        self.ends = ends
        self.faults = faults
        self.n_sent = 0
        self._clock = clock
        self._rng = rng
        self._timeout_s = timeout_s
        self._deliveries: set[asyncio.Task[Any]] = set()
        self._broken: list[BaseException] = []

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        return await self._call(lambda peer: peer.on_heartbeat(self.ends.local, heartbeat))

    async def held(self, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        return await self._call(lambda peer: peer.on_held(self.ends.local, refs))

    async def propose(self, proposal: Proposal) -> Verdict:
        return await self._call(lambda peer: peer.on_propose(self.ends.local, proposal))

    async def ask_restore(self, incarnation: str) -> RestoreChallenge:
        return await self._call(lambda peer: peer.on_ask_restore(self.ends.local, incarnation))

    async def agree_restore(self, terms: RestoreTerms) -> RestoreConsent:
        return await self._call(lambda peer: peer.on_agree_restore(self.ends.local, terms))

    async def quiet(self) -> None:
        """Wait until nothing is under way; raise what no receiver may raise, if one did."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)
        if self._broken:
            raise self._broken[0]

    async def _call(self, send: Callable[[PeerHandler], Awaitable[T]]) -> T:
        self.ends.fuse.step()
        self.n_sent += 1
        delivery = self._start(self._deliver(send))
        if self._rng.random() < self.faults.duplicate:
            self._start(self._deliver(send))
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await asyncio.shield(delivery)
        except TimeoutError:
            raise PeerUnavailableError("no answer in time") from None
        finally:
            self.ends.fuse.step()
        return answer

    def _start(self, delivery: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(delivery)
        self._deliveries.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._deliveries.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KmeError):
            self._broken.append(error)

    async def _deliver(self, send: Callable[[PeerHandler], Awaitable[T]]) -> T:
        await self._clock.sleep(self._rng.uniform(0, self.faults.max_delay_s))
        handler = None if self._rng.random() < self.faults.drop else self.ends.handler()
        if handler is None:
            raise PeerUnavailableError("lost on the way")
        try:
            answer = await send(handler)
        except PairingError:
            raise
        except (KmeError, SimulatedCrash) as error:
            raise PeerUnavailableError(f"no proper answer: {error!r}") from None
        await self._clock.sleep(self._rng.uniform(0, self.faults.max_delay_s))
        if self._rng.random() < self.faults.lose_answer:
            raise PeerUnavailableError("the answer was lost")
        return answer
