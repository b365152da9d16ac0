"""disks - what survives the processes of one KME, on either store, and how it looks outside."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from kme.errors import ConflictError, StoreUnavailableError
from kme.ids import KmeId
from kme.secret import Secret
from kme.store.ledger import Ledger
from kme.store.memory import MemoryStore
from kme.store.ports import Store
from kme.store.records import Claim, GranuleRange, PairingRecord
from kme.store.restore import due
from kme.store.vault import VaultStore
from kme.store.vault.ledgers import ledger_path, read_ledger
from kme.store.vault.notes import HeartbeatState
from kme.store.vault.pairs import PairState
from kme.store.vault.restores import MARK_PATH
from kme.store.vault.roomstate import RoomState
from kme.vault.documents import Document
from memory_documents import MemoryDocuments
from simulation import CrashingStore, Fuse, StoreFaults

T = TypeVar("T")

Watch = Callable[[PairingRecord], None]
"""Told of the pair's record right after each write, before anybody else can act on it."""


@dataclass
class DiskWeather:
    """What goes wrong between the processes of a KME and its store; changed while they run.

    Parameters
    ----------
    pause
        Awaited before and after each call.
    unavailable
        Probability that a call fails with unknown outcome.
    late
        Share of the failed writes to documents that land later.
    rng
        Where the dice come from.
    note
        Takes a line for the trace.
    """

    pause: Callable[[], Awaitable[None]]
    rng: random.Random
    note: Callable[[str], None]
    unavailable: float = 0.0
    late: float = 0.0


class Disk(Protocol):
    """What one KME keeps for its only peer.

    Attributes
    ----------
    undoes_lost_claims
        Whether a claim is undone whose writing was in doubt; else it stays
        open until its worker ends.
    """

    undoes_lost_claims: ClassVar[bool]

    def open(self, fuse: Fuse, weather: DiskWeather) -> Store:
        """Return the store as one process sees it."""

    def inspect(self) -> Store:
        """Return the store as it is, where nothing goes wrong."""

    def backup(self) -> "Disk":
        """Return an independent copy, as a restored backup would be."""

    def marks(self) -> Mapping[int, int]:
        """Return the first granule never claimed, for own blocks that aren't used up."""

    def open_claims(self) -> set[str]:
        """Return the nonces of all open claims."""

    def claimants(self) -> set[str]:
        """Return the names of all processes that have an open claim."""

    def has_to_agree(self) -> bool:
        """Return whether a restore was said that isn't agreed with the peer yet."""

    async def ledger(self, number: int) -> Ledger | None:
        """Return a block's ledger."""


class _Faults(StoreFaults):
    """The faults of one process, as the KME's weather is now."""

    def __init__(self, weather: DiskWeather) -> None:
        super().__init__(weather.pause, 0.0, weather.rng)
        self._weather = weather

    @property
    def unavailable(self) -> float:
        return self._weather.unavailable

    @unavailable.setter
    def unavailable(self, value: float) -> None:
        """Take nothing: the weather counts."""


class TracedStore(CrashingStore):
    """A process's store whose weightiest writes stand in the trace."""

    def __init__(
        self, inner: Store, fuse: Fuse, faults: StoreFaults, note: Callable[[str], None]
    ) -> None:
        super().__init__(inner, fuse, faults)
        self._note = note

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        claim = await super().claim(peer, worker, min_granules, want_granules)
        if claim is not None:
            self._note(f"{worker} claims {_shown(claim.reserved)}")
        return claim

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        await super().give_back(peer, claim, untouched_from)
        self._note(f"{claim.worker} gives back {_shown(claim.reserved)} from {untouched_from} on")

    async def close_claims(self, worker: str | None = None) -> int:
        n_closed = await super().close_claims(worker)
        if n_closed:
            self._note(f"{n_closed} claims of {worker or 'all workers'} are closed")
        return n_closed

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        await super().raise_peer_settled(peer, number)
        self._note(f"knows that {peer} has settled block {number}")


def _shown(reserved: GranuleRange) -> str:
    return f"{reserved.block_number}/{reserved.start}-{reserved.stop}"


class MemoryDisk:
    """A store in memory that all processes of the KME share."""

    undoes_lost_claims: ClassVar[bool] = False

    def __init__(self, kme: KmeId, peer: KmeId, watch: Watch) -> None:
        self._kme, self._peer, self._watch = kme, peer, watch
        self._store = MemoryStore(kme, self._look)

    async def _look(self, step: str) -> None:
        if step.startswith("after") and step.split()[1] in {"open_proposal", "settle"} | _MARKING:
            self._watch(self._store._state.pair(self._peer).record)

    def open(self, fuse: Fuse, weather: DiskWeather) -> Store:
        return TracedStore(self._store, fuse, _Faults(weather), weather.note)

    def inspect(self) -> Store:
        return self._store

    def backup(self) -> "MemoryDisk":
        copy = MemoryDisk(self._kme, self._peer, self._watch)
        copy._store._state = self._store._state.copy()
        return copy

    def marks(self) -> Mapping[int, int]:
        own = self._store._state.pair(self._peer).own
        return dict(own.marks)

    def open_claims(self) -> set[str]:
        return set(self._store._state.claims)

    def claimants(self) -> set[str]:
        return {claim.worker for _, claim in self._store._state.claims.values()}

    def has_to_agree(self) -> bool:
        return self._store._restoring(self._peer) is not None

    async def ledger(self, number: int) -> Ledger | None:
        return self._store._state.pair(self._peer).ledgers.get(number)


_MARKING = {"raise_peer_settled", "raise_floors", "agree_restore", "accept_restore"}


class _WatchedDocuments(MemoryDocuments):
    """Documents whose writes are seen at the moment when they land."""

    landed: Callable[[str], None] = staticmethod(lambda path: None)

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        landed = await super().write(path, data, version)
        self.landed(path)
        return landed

    async def _wait(self) -> None:
        """Let the processes' own pauses decide who comes first."""


@dataclass
class _ProcessDocuments:
    """Documents as one process sees them: it may die, and Vault may not answer."""

    documents: MemoryDocuments
    fuse: Fuse
    weather: DiskWeather
    under_way: set["asyncio.Task[None]"] = field(default_factory=set)

    async def read(self, path: str) -> Document | None:
        return await self._call(lambda: self.documents.read(path))

    async def names(self, path: str) -> list[str]:
        return await self._call(lambda: self.documents.names(path))

    async def forget(self, path: str) -> None:
        await self._call(lambda: self.documents.forget(path))

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        weather, kept = self.weather, json.loads(json.dumps(dict(data)))
        if weather.rng.random() < weather.unavailable * weather.late:
            await weather.pause()
            self.fuse.step()
            task = asyncio.create_task(self._land_later(path, kept, version))
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)
            raise StoreUnavailableError("simulated: no answer, and the write lands later")
        return await self._call(lambda: self.documents.write(path, kept, version))

    async def _land_later(self, path: str, data: Mapping[str, Any], version: int) -> None:
        """Land whatever has become of the process meanwhile: the request is on its way."""
        await asyncio.sleep(self.weather.rng.choice((0.001, 0.05, 1.0, 5.0)))
        try:
            await self.documents.write(path, data, version)
        except ConflictError:
            return

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        rng = self.weather.rng
        fails = rng.random() < self.weather.unavailable
        fails_before = fails and rng.random() < 0.5
        await self.weather.pause()
        self.fuse.step()
        if fails_before:
            raise StoreUnavailableError("simulated outage before the call")
        result = await call()
        self.fuse.step()
        await self.weather.pause()
        if fails:
            raise StoreUnavailableError("simulated outage after the call")
        return result


class VaultDisk:
    """Documents as Vault keeps them; each process has a store of its own on them."""

    undoes_lost_claims: ClassVar[bool] = True
    documents_of = staticmethod(_ProcessDocuments)

    def __init__(self, kme: KmeId, peer: KmeId, watch: Watch) -> None:
        self._kme, self._peer, self._watch = kme, peer, watch
        self._documents = _WatchedDocuments()
        self._documents.landed = self._landed

    def _landed(self, path: str) -> None:
        if path in {f"pairs/{self._peer}", f"room/{self._peer}"}:
            room = self._room()
            pair = PairState.from_data(self._data(f"pairs/{self._peer}"))
            self._watch(
                replace(
                    pair.record,
                    peer_settled=room.peer_settled,
                    floor_allocate=room.floor_allocate,
                )
            )

    def open(self, fuse: Fuse, weather: DiskWeather) -> Store:
        documents = self.documents_of(self._documents, fuse, weather)
        store = VaultStore(self._kme, documents, Secret(bytes(32)))
        return TracedStore(store, fuse, StoreFaults(rng=weather.rng), weather.note)

    def inspect(self) -> Store:
        return VaultStore(self._kme, self._documents, Secret(bytes(32)))

    def backup(self) -> "VaultDisk":
        copy = VaultDisk(self._kme, self._peer, self._watch)
        copy._documents._kept = dict(self._documents._kept)
        return copy

    def marks(self) -> Mapping[int, int]:
        return {number: one.mark for number, one in self._room().blocks.items()}

    def open_claims(self) -> set[str]:
        return set(self._room().claims)

    def claimants(self) -> set[str]:
        return {claim.worker for claim in self._room().claims.values()}

    def has_to_agree(self) -> bool:
        marked = self._data(MARK_PATH).get("incarnation")
        heartbeats = HeartbeatState.from_data(self._data(f"heartbeats/{self._peer}"))
        return due(marked, heartbeats.agreed_incarnation) is not None

    async def ledger(self, number: int) -> Ledger | None:
        kept = await read_ledger(self._documents, self._peer, number)
        return None if kept is None else kept.ledger

    def ledger_data(self, number: int) -> Mapping[str, Any]:
        """Return a ledger's document as it is."""
        return self._data(ledger_path(self._peer, number))

    def _room(self) -> RoomState:
        return RoomState.from_data(self._data(f"room/{self._peer}"))

    def _data(self, path: str) -> Mapping[str, Any]:
        kept = self._documents._kept.get(path)
        return {} if kept is None else dict(json.loads(kept[0]))
