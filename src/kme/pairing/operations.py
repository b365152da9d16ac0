"""operations - what operators ask of a pair: stock, comparison, clearing; both ends of each."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from kme.clock import Clock
from kme.errors import IdentityError, KmeError, PairingError, PeerUnavailableError
from kme.ids import KmeId, SaeId
from kme.pairing.compare import MAX_COMPARED, compare_tag, compared
from kme.pairing.ports import (
    BlockTag,
    Comparison,
    Liveness,
    OperatorLink,
    PairStock,
)
from kme.pairing.standing import settled_number
from kme.registry.records import SaeList
from kme.store import rules
from kme.store.ports import Store
from kme.store.records import Incident, IncidentKind, PairingRecord

_logger = logging.getLogger(__name__)

DEFAULT_KEY_BYTES: Final = 32
"""Stock is counted in keys of 256 bits unless asked otherwise."""


class Burner(Protocol):
    """Who can burn what is kept for a peer (`kme.pairing.pairing.Pairing`)."""

    async def burn_waiting(self, peer: KmeId) -> int:
        """Burn the final keys that wait, and return the highest block number seen then."""
        ...

    async def retire(self, peer: KmeId) -> int:
        """Burn all that is kept for a peer, and return the highest block number seen."""
        ...


class SaeListener(Protocol):
    """Who takes note of a peer's SAEs (`kme.registry.saes.SaeRegistry`)."""

    async def learn(self, peer: KmeId, told: SaeList) -> Sequence[SaeId]:
        """Keep a peer's list durably, and return what is new in it and somebody else's."""
        ...


@dataclass(frozen=True, slots=True)
class OperationPorts:
    """What operations work with.

    Parameters
    ----------
    store
        What this KME keeps.
    clock
        Its time.
    liveness
        Whether each peer is there, and nobody was rolled back.
    burner
        Who burns what is kept.
    saes
        Who takes note of peers' SAEs.
    heed_floors
        Makes all who cut keys here look at the floors now.
    """

    store: Store
    clock: Clock
    liveness: Liveness
    burner: Burner
    saes: SaeListener
    heed_floors: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BothStocks:
    """Stock of one pair as both KMEs tell it; None where a KME didn't."""

    here: PairStock
    there: PairStock | None
    why_not: str | None


@dataclass(frozen=True, slots=True)
class PeerState:
    """How things stand with one peer.

    Parameters
    ----------
    peer
        The peer.
    reason
        Why no keys can be handed out now; None if they can.
    record
        Where pairing stands.
    """

    peer: KmeId
    reason: str | None
    record: PairingRecord


@dataclass(frozen=True, slots=True)
class Compared:
    """What a stretch of blocks was found to be.

    Parameters
    ----------
    n_equal
        Blocks that are the same at both KMEs.
    unequal, absent_here, absent_there
        Numbers of blocks that are not, or that one of the two lacks: one that
        both lack stands in `absent_here` only.
    next_number
        Where to go on; None behind the last block.
    """

    n_equal: int
    unequal: tuple[int, ...]
    absent_here: tuple[int, ...]
    absent_there: tuple[int, ...]
    next_number: int | None


class Operations:
    """What operators may ask of this KME and its peers.

    It is the `kme.pairing.ports.OperatorHandler` of what peers' operators ask.

    Parameters
    ----------
    local
        This KME.
    ports
        Store, clock, liveness and so on.
    links
        The way to each peer.
    """

    def __init__(
        self, local: KmeId, ports: OperationPorts, links: Mapping[KmeId, OperatorLink]
    ) -> None:
        self._local = local
        self._ports = ports
        self._links = links

    @property
    def peers(self) -> tuple[KmeId, ...]:
        """All peers."""
        return tuple(self._links)

    async def state(self, peer: KmeId) -> PeerState:
        """Return how things stand with a peer.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        self._link(peer)
        reason = None
        try:
            self._ports.liveness.require_alive(peer)
        except PeerUnavailableError as error:
            reason = error.message
        return PeerState(peer, reason, await self._ports.store.pairing(peer))

    async def incidents(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        return await self._ports.store.incidents(limit)

    async def stock(self, peer: KmeId, key_bytes: int = DEFAULT_KEY_BYTES) -> BothStocks:
        """Return what is in stock at both ends; a peer that doesn't answer is told, no error."""
        here = await self.on_stock(peer, key_bytes)
        try:
            return BothStocks(here, await self._link(peer).stock(key_bytes), None)
        except KmeError as error:
            return BothStocks(here, None, error.message)

    async def compare(self, peer: KmeId, from_number: int = 1) -> Compared:
        """Compare the next `MAX_COMPARED` blocks from a number on, of those above the floors.

        Blocks are compared by tags that say nothing about their bytes. One that
        was used up at one end already is absent there, which is no fault.

        Raises
        ------
        PeerUnavailableError
            If the peer doesn't answer.
        """
        link = self._link(peer)
        record = await self._ports.store.pairing(peer)
        first = max(from_number, 1 + min(record.floor_allocate, record.floor_draw))
        last = min(settled_number(record), first + MAX_COMPARED - 1)
        tags = {number: await self._tag(peer, number) for number in range(first, last + 1)}
        asked = [tag for tag in tags.values() if tag is not None]
        answers = await link.compare(asked) if asked else []
        found = {tag.number: answer for tag, answer in zip(asked, answers, strict=True)}
        unequal = _numbers(found, Comparison.UNEQUAL)
        if unequal:
            await self._alarm_unequal(peer, unequal)
        return Compared(
            n_equal=len(_numbers(found, Comparison.EQUAL)),
            unequal=unequal,
            absent_here=tuple(number for number, tag in tags.items() if tag is None),
            absent_there=_numbers(found, Comparison.ABSENT),
            next_number=last + 1 if last < settled_number(record) else None,
        )

    async def clear(self, peer: KmeId) -> int:
        """Drop all keys of a pair at both ends, and return up to which block number.

        What waits is burnt at both ends and both floors rise at both: no block
        that exists now is allocated or drawn from again. Whatever comes in
        afterwards is paired under higher numbers. It may be repeated.

        Raises
        ------
        PeerUnavailableError
            If the peer doesn't answer: before it did anything nothing has
            happened here either, else this end is cleared and the message
            says so.
        StoreUnavailableError
            If our own store doesn't answer; repeat it then.
        """
        link = self._link(peer)
        await link.stock(DEFAULT_KEY_BYTES)
        highest = await self._drop(peer, 0)
        try:
            highest = await link.clear(highest)
        except PeerUnavailableError as error:
            raise PeerUnavailableError(
                f"keys were dropped here, perhaps not at KME {peer}: clear again when it answers"
                f" ({error.message})",
                peer=peer,
            ) from error
        await self._raise_floors(peer, highest)
        await self._note_cleared(peer, highest, "by an operator of this KME")
        return highest

    async def retire(self, peer: KmeId) -> int:
        """Burn here all keys shared with a peer that is gone for good; return up to which block.

        The peer isn't asked. It may be repeated.

        Raises
        ------
        StoreUnavailableError
            If our own store doesn't answer; repeat it then.
        """
        self._link(peer)
        highest = await self._ports.burner.retire(peer)
        details = f"this KME burnt all keys shared with it, up to block {highest}"
        _logger.warning("retired", extra={"peer": peer, "details": details})
        await self._alarm(peer, IncidentKind.RETIRED, details)
        return highest

    async def on_saes(self, peer: KmeId, told: SaeList) -> None:
        """Take note of which SAEs live at a peer."""
        self._link(peer)
        disputed = await self._ports.saes.learn(peer, told)
        if disputed:
            details = f"told of SAEs that are somebody else's: {_shown(disputed)}"
            _logger.warning("disputed SAEs", extra={"peer": peer, "details": details})
            await self._alarm(peer, IncidentKind.DISPUTED_SAE, details)

    async def on_stock(self, peer: KmeId, key_bytes: int) -> PairStock:
        """Say what this KME may allocate for the pair."""
        self._link(peer)
        store = self._ports.store
        record, stock = await store.pairing(peer), await store.stock(peer)
        return PairStock(
            highest=record.highest,
            settled=settled_number(record),
            n_blocks=sum(stock.blocks_by_room.values()),
            n_bytes=stock.n_bytes,
            n_keys=stock.count_of(key_bytes),
        )

    async def on_compare(self, peer: KmeId, tags: Sequence[BlockTag]) -> list[Comparison]:
        """Say which blocks have the same bytes here."""
        self._link(peer)
        if len(tags) > MAX_COMPARED:
            raise PairingError(f"at most {MAX_COMPARED} blocks are compared at once")
        found = [compared(await self._tag(peer, tag.number), tag) for tag in tags]
        if Comparison.UNEQUAL in found:
            _logger.error("blocks differ from the peer's", extra={"peer": peer})
        return found

    async def on_clear(self, peer: KmeId, highest: int) -> int:
        """Drop all keys of the pair, because the peer's operator asked for it."""
        self._link(peer)
        rules.check_number(highest)
        dropped = await self._drop(peer, highest)
        await self._note_cleared(peer, dropped, f"by an operator of KME {peer}")
        return dropped

    async def _drop(self, peer: KmeId, at_least: int) -> int:
        """Burn what waits, then close all blocks up to the highest number of either side."""
        highest = max(await self._ports.burner.burn_waiting(peer), at_least)
        await self._raise_floors(peer, highest)
        return highest

    async def _raise_floors(self, peer: KmeId, number: int) -> None:
        store = self._ports.store
        await store.raise_floors(peer, allocate=number)
        await self._ports.heed_floors()
        # That may take a while, for it destroys blocks; nothing of them is handed out meanwhile.
        await store.raise_floors(peer, draw=number)

    async def _note_cleared(self, peer: KmeId, number: int, who: str) -> None:
        details = f"all keys up to block {number} and what waited were dropped at both ends {who}"
        _logger.warning("cleared", extra={"peer": peer, "details": details})
        await self._alarm(peer, IncidentKind.CLEARED, details)

    async def _alarm_unequal(self, peer: KmeId, numbers: Sequence[int]) -> None:
        details = f"{len(numbers)} paired blocks differ between the two KMEs: {_shown(numbers)}"
        _logger.error("paired blocks differ", extra={"peer": peer, "details": details})
        await self._alarm(peer, IncidentKind.UNEQUAL_BLOCK, details)

    async def _alarm(self, peer: KmeId, kind: IncidentKind, details: str) -> None:
        now_s = self._ports.clock.now_s()
        await self._ports.store.record_incident(Incident(peer, kind, now_s, details))

    async def _tag(self, peer: KmeId, number: int) -> BlockTag | None:
        block = await self._ports.store.block(peer, number)
        if block is None:
            return None
        first, second = sorted((self._local, peer))
        try:
            return compare_tag((first, second), number, block.key)
        finally:
            block.key.wipe()

    def _link(self, peer: KmeId) -> OperatorLink:
        try:
            return self._links[peer]
        except KeyError:
            raise IdentityError(f"KME {peer} is not a peer of this KME") from None


def _numbers(found: Mapping[int, Comparison], wanted: Comparison) -> tuple[int, ...]:
    return tuple(number for number, comparison in found.items() if comparison is wanted)


def _shown(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
