"""supply_pair - two KMEs with key blocks in memory, for tests of the supply and its consumers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from grant_links import DirectGrants
from kme.clock import Clock
from kme.errors import PeerUnavailableError, StoreUnavailableError
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import (
    FinalKeyRef,
    KeyBlock,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from kme.supply.cache import BlockCache
from kme.supply.directory import SaeDirectory
from kme.supply.draw import DrawPorts
from kme.supply.grantee import Grantee
from kme.supply.supply import LinkSupply, SupplyLimits
from simulation import VirtualClock

A, B = KmeId("kme-a"), KmeId("kme-b")
ALICE, CAROL = SaeId("alice"), SaeId("carol")
BOB, EVE = SaeId("bob"), SaeId("eve")
RESIDENTS = ((ALICE, A), (CAROL, A), (BOB, B), (EVE, B))
SOURCE = SourceId("link")


def directory_of(local: KmeId) -> SaeDirectory:
    """Return the directory as one of the two KMEs sees it."""
    return SaeDirectory(local, (B if local == A else A,), RESIDENTS)


def key_block(number: int = 1, owner: KmeId = A, n_bytes: int = 1024, seed: int = 0) -> KeyBlock:
    """Return a block of random bytes."""
    key = Secret(random.Random(f"{seed}/{number}").randbytes(n_bytes))
    return KeyBlock(number, owner, SOURCE, SourceClass.QKD, 3600, key)


async def _no_pause() -> None:
    """Go on at once."""


class SimulatedLiveness:
    """A `kme.pairing.ports.Liveness` that does as it is told, and writes down what was asked.

    Parameters
    ----------
    log
        Gets ``heartbeat begun`` and ``heartbeat accepted``.
    pause
        Awaited while a heartbeat is under way.
    """

    def __init__(
        self, log: list[str] | None = None, pause: Callable[[], Awaitable[None]] = _no_pause
    ) -> None:
        self.log = [] if log is None else log
        self.is_alive = True
        self.was_heard = True
        self.n_refused_heartbeats = 0
        self._pause = pause

    def require_alive(self, peer: KmeId) -> None:
        if not self.is_alive:
            raise PeerUnavailableError(f"{peer} is down")

    def require_heard_once(self, peer: KmeId) -> None:
        if not self.was_heard:
            raise PeerUnavailableError(f"{peer} was not heard since the start")

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        self.log.append("heartbeat begun")
        await self._pause()
        if self.n_refused_heartbeats:
            self.n_refused_heartbeats -= 1
            raise PeerUnavailableError(f"{peer} refused a heartbeat")
        self.require_alive(peer)
        self.log.append("heartbeat accepted")


class StoreScript:
    """What happens at a store's calls: writes them down, lets chosen ones wait or fail.

    Attributes
    ----------
    log
        ``claim`` when its atomic step is about to happen, and so on.
    """

    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self._failures: dict[str, int] = {}
        self._gates: dict[str, asyncio.Event] = {}

    def fail(self, step: str, times: int = 1) -> None:
        """Make ``before claim`` (nothing happened) or ``after claim`` (it did) a time-out."""
        self._failures[step] = times

    def hold(self, step: str) -> asyncio.Event:
        """Let calls wait at a step until the event is set."""
        gate = self._gates[step] = asyncio.Event()
        return gate

    def count(self, call: str) -> int:
        """Return how often a call was made."""
        return self.log.count(call)

    async def __call__(self, step: str) -> None:
        when, call = step.split(" ")
        if when == "before":
            self.log.append(call)
        if step in self._gates:
            await self._gates[step].wait()
        if self._failures.get(step, 0):
            self._failures[step] -= 1
            raise StoreUnavailableError(f"simulated time-out {step}")


@dataclass
class BlockMaker:
    """Puts equal blocks into both stores, as pairing would."""

    stores: Sequence[MemoryStore]
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    number: int = 0
    lifetime_s: int = 3600

    async def add(
        self,
        owner: KmeId,
        n_bytes: int,
        source_class: SourceClass = SourceClass.QKD,
        *,
        is_settled: bool = True,
    ) -> bytes:
        """Add the next block and return its bytes.

        If it isn't settled, no side knows yet that the other one has it.
        """
        self.number += 1
        key = self.rng.randbytes(n_bytes)
        entry = FinalKeyRef(SOURCE, Epoch(self.number))
        proposal = Proposal(self.number, owner, (entry,), self.lifetime_s, source_class, bytes(16))
        for store in self.stores:
            peer = B if store.kme == A else A
            await store.settle(peer, Settlement(proposal, Verdict.EQUAL), Secret(key))
            if is_settled:
                await store.raise_peer_settled(peer, self.number)
        return key


class SupplyPair:
    """Two KMEs, `a` and `b`, each with its supply over a store in memory.

    Parameters
    ----------
    clock
        The time of both; stands still unless told otherwise.
    limits
        What each of them keeps in memory.
    """

    def __init__(self, clock: Clock | None = None, limits: SupplyLimits | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.scripts = {A: StoreScript(), B: StoreScript()}
        self.stores = {kme: MemoryStore(kme, self.scripts[kme]) for kme in (A, B)}
        self.liveness = {kme: SimulatedLiveness(self.scripts[kme].log) for kme in (A, B)}
        self.blocks = BlockMaker(tuple(self.stores.values()))
        self.grantees = {kme: self._grantee(kme) for kme in (A, B)}
        self.grant_links = {
            A: DirectGrants(A, lambda: self.grantees[B]),
            B: DirectGrants(B, lambda: self.grantees[A]),
        }
        self._limits = limits or SupplyLimits()
        self.a = self.start(A, "worker-1")
        self.b = self.start(B, "worker-1")

    def start(self, kme: KmeId, worker: str) -> LinkSupply:
        """Return a new process's supply over what is stored."""
        return LinkSupply(
            directory_of(kme),
            self.stores[kme],
            self.liveness[kme],
            self.clock,
            worker,
            self._limits,
            links={B if kme == A else A: self.grant_links[kme]},
        )

    def _grantee(self, kme: KmeId) -> Grantee:
        """Return what takes the peer's grants."""
        store = self.stores[kme]
        ports = DrawPorts(directory_of(kme), store, BlockCache(store), self.clock)
        return Grantee(ports, self.liveness[kme])

    async def open(self) -> None:
        """Open both supplies."""
        await self.a.open()
        await self.b.open()


class GranuleBook:
    """Remembers which granules were handed out, and refuses to see one twice."""

    def __init__(self) -> None:
        self.owners: dict[tuple[int, int], KeyId] = {}

    def note(self, key_id: KeyId) -> None:
        """Take the granules of a new key."""
        for granule in range(key_id.offset_granules, key_id.offset_granules + key_id.n_granules):
            place = key_id.block_number, granule
            assert place not in self.owners, f"{place} is under {key_id} and {self.owners[place]}"
            self.owners[place] = key_id
