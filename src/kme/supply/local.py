"""local - keys for two SAEs of this KME, cut from blocks of random bytes that are made on demand.

The blocks are those of a pair of this KME with itself: in the same store, cut and
drawn by the same code, in one ledger. No quantum link made them.
"""

import asyncio
import logging
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from kme.clock import Clock
from kme.errors import KmeError, OutOfKeysError, PairingError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.expiry import KeepingStore, KeyExpiry
from kme.secret import Secret
from kme.store.ports import PairingStore, RestoreStore, SupplyStore
from kme.store.records import (
    MAX_BLOCK_BYTES,
    RESERVED_GRANULES,
    FinalKeyRef,
    Proposal,
    Settlement,
    SourceClass,
    Stock,
    Verdict,
)
from kme.store.restore import RestoreAgreement
from kme.supply.allocator import Allocator, Wish
from kme.supply.ports import Key, SupplyStock
from kme.units import GRANULE_BYTES

_logger = logging.getLogger(__name__)

LOCAL_SOURCE: Final = SourceId("local-random")

_ROOM: Final = MAX_BLOCK_BYTES // GRANULE_BYTES - RESERVED_GRANULES
_TAG_BYTES: Final = 16
_MAX_TRIES: Final = 8

MAX_LOCAL_BLOCKS: Final = 1024
"""So many blocks of one process, 64 MiB, may wait until somebody draws what was cut from them."""

MAX_LOCAL_GRANT_BYTES: Final = 64 * 1024 * 1024
"""So much may one process have kept within a lifetime for further slaves of such keys."""

_GRANT_BYTES: Final = 512
"""What a grant takes beside its key, at most."""

_LOOKS: Final = 16


async def give_up_after_restore(local: KmeId, store: RestoreStore) -> None:
    """Let nothing be drawn again that this KME alone took part in, if its store was restored.

    With every peer that is agreed; with itself a KME always agrees.

    Raises
    ------
    StoreUnavailableError
        If the store doesn't answer.
    """
    incarnation = await store.restoring(local)
    if incarnation is not None:
        await store.agree_restore(local, RestoreAgreement(incarnation, incarnation, None, 0))


async def keep_expiring(local: KmeId, store: KeepingStore, clock: Clock, lifetime_s: int) -> None:
    """Let local keys expire that nobody drew, until cancelled; one process of a KME does it."""
    expiry = KeyExpiry(local, store, clock, lifetime_s)
    while True:
        try:
            expiry.heard(await store.frontier(local))
        except KmeError as error:
            _logger.warning("local expiry waits", extra={"reason": error.message})
        await expiry.try_step()
        await clock.sleep(expiry.pause_s())


class AlwaysAlive:
    """The `kme.pairing.ports.Liveness` of this KME towards itself."""

    def require_alive(self, peer: KmeId) -> None:
        """Return."""

    def require_heard_once(self, peer: KmeId) -> None:
        """Return."""

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        """Return."""


class LocalStore(PairingStore, SupplyStore, Protocol):
    """What making blocks needs of a store."""


@dataclass(frozen=True, slots=True)
class LocalBlocks:
    """The blocks of this KME's pair with itself.

    Nothing but this class limits how many there are: no link has to make them.

    Parameters
    ----------
    local
        This KME.
    store
        Where they are kept.
    lifetime_s
        How long their keys may be drawn.
    made
        Those that this process made and that may not be used up, in no order.
    """

    local: KmeId
    store: LocalStore
    lifetime_s: int
    made: deque[int] = field(default_factory=deque)

    async def close_earlier(self) -> None:
        """Let nothing be cut any more from blocks that there are by now."""
        highest = (await self.store.pairing(self.local)).highest
        await self.store.raise_floors(self.local, allocate=highest)

    async def make(self) -> None:
        """Make one block, unless another worker just did.

        Raises
        ------
        OutOfKeysError
            If too many are there that nobody draws from.
        StoreUnavailableError
            If the store doesn't answer.
        """
        await self._require_room()
        number = (await self.store.pairing(self.local)).highest + 1
        # The tag is random: two workers at the same number never mean the same block.
        proposal = Proposal(
            number,
            self.local,
            (FinalKeyRef(LOCAL_SOURCE, Epoch(number % (1 << Epoch.BITS))),),
            self.lifetime_s,
            SourceClass.RANDOM,
            secrets.token_bytes(_TAG_BYTES),
        )
        key = Secret(secrets.token_bytes(MAX_BLOCK_BYTES))
        try:
            await self.store.settle(self.local, Settlement(proposal, Verdict.EQUAL), key)
        except PairingError:
            if (await self.store.pairing(self.local)).highest < number:
                raise
        finally:
            key.wipe()
        self.made.append(number)
        await self.store.raise_peer_settled(self.local, number)

    async def _require_room(self) -> None:
        """Look at some blocks in turn while there are many; those used up are gone."""
        for _ in range(min(_LOOKS, len(self.made) if len(self.made) >= MAX_LOCAL_BLOCKS else 0)):
            number = self.made.popleft()
            block = await self.store.block(self.local, number)
            if block is not None:
                block.key.wipe()
                self.made.append(number)
        if len(self.made) >= MAX_LOCAL_BLOCKS:
            raise OutOfKeysError("too many keys of SAEs of this KME wait to be drawn")


class LocalKeys:
    """New keys for two SAEs of this KME.

    Parameters
    ----------
    blocks
        What they are cut from.
    allocator
        What cuts them.
    clock
        The time.
    """

    def __init__(self, blocks: LocalBlocks, allocator: Allocator, clock: Clock) -> None:
        self._blocks = blocks
        self._allocator = allocator
        self._clock = clock
        self._making = asyncio.Lock()
        self._granted: deque[tuple[float, int]] = deque()
        self._n_granted = 0

    async def take(self, wish: Wish) -> list[Key]:
        """Cut keys, making as many blocks as that takes.

        Raises
        ------
        OutOfKeysError
            If others took all that was made, again and again.
        StoreUnavailableError
            If the store doesn't answer.
        """
        try:
            return await self._allocator.take(wish)
        except OutOfKeysError:
            pass  # the usual reason to make more
        async with self._making:
            for _ in range(_MAX_TRIES):
                try:
                    return await self._allocator.take(wish)
                except OutOfKeysError:
                    for _ in range(-(-wish.n_keys // (_ROOM // wish.n_granules))):
                        await self._blocks.make()
            return await self._allocator.take(wish)

    def note_grants(self, n_slaves: int, wish: Wish) -> None:
        """Return if such keys may be kept for further slaves of this KME, and count them.

        Raises
        ------
        OutOfKeysError
            If too many were kept within a lifetime.
        """
        now_s = self._clock.monotonic_s()
        while self._granted and self._granted[0][0] <= now_s:
            self._n_granted -= self._granted.popleft()[1]
        n_bytes = n_slaves * wish.n_keys * (wish.n_bytes + _GRANT_BYTES)
        if self._n_granted + n_bytes > MAX_LOCAL_GRANT_BYTES:
            raise OutOfKeysError("too many keys of SAEs of this KME are kept for further slaves")
        if n_bytes:
            self._granted.append((now_s + self._blocks.lifetime_s, n_bytes))
            self._n_granted += n_bytes

    def stock(self) -> SupplyStock:
        """Return what can be had at least: one block more can always be made."""
        classes = frozenset({SourceClass.RANDOM})
        return SupplyStock(
            self._blocks.local, is_peer_alive=True, source_classes=classes, room=Stock({_ROOM: 1})
        )
