"""cache - the blocks in use, kept in memory for a while and wiped when they leave."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from kme.ids import KmeId
from kme.pairing.tags import id_key
from kme.secret import Secret
from kme.store.ports import SupplyStore
from kme.store.records import RESERVED_GRANULES, KeyBlock, SourceClass
from kme.units import GRANULE_BYTES

DEFAULT_CACHE_BYTES: Final = 8 * 1024 * 1024
"""Room for 128 blocks of the largest size."""


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A block in memory, ready to cut keys from.

    Parameters
    ----------
    owner
        The KME that allocates from it.
    source_class
        How the key came to be.
    lifetime_s
        How long its keys live.
    key
        All its bytes: a copy of our own, because it will be wiped.
    id_key
        Its key for ids.
    """

    owner: KmeId
    source_class: SourceClass
    lifetime_s: int
    key: Secret
    id_key: Secret

    @classmethod
    def of(cls, block: KeyBlock) -> "OpenBlock":
        """Open a block as the store returned it."""
        key, key_for_ids = block.key[:], id_key(block.key)
        return cls(block.owner, block.source_class, block.lifetime_s, key, key_for_ids)

    def holds(self, offset_granules: int, n_granules: int) -> bool:
        """Return whether a key may lie there: behind the reserved bytes, before the end."""
        stop = offset_granules + n_granules
        return offset_granules >= RESERVED_GRANULES and stop <= len(self.key) // GRANULE_BYTES

    def wipe(self) -> None:
        """Overwrite the bytes."""
        self.key.wipe()
        self.id_key.wipe()


class BlockCache:
    """The blocks used last, read from the store when they are needed.

    What `block` returns may be wiped at the caller's next await: it cuts what
    it needs before.

    Parameters
    ----------
    store
        Where blocks come from.
    max_bytes
        How many bytes of blocks are kept at most; the newest one is kept
        whatever its size.
    """

    def __init__(self, store: SupplyStore, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[KmeId, int], OpenBlock] = OrderedDict()
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """How many bytes of blocks are in memory."""
        return self._n_bytes

    async def block(self, peer: KmeId, number: int) -> OpenBlock | None:
        """Return a block of the pair with `peer`; None if the store has none.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        place = peer, number
        if place in self._blocks:
            self._blocks.move_to_end(place)
            return self._blocks[place]
        block = await self._store.block(peer, number)
        if block is None:
            return None
        self._forget(place)  # another task may have read it meanwhile
        opened = self._blocks[place] = OpenBlock.of(block)
        self._n_bytes += len(opened.key)
        while self._n_bytes > self._max_bytes and len(self._blocks) > 1:
            self._forget(next(iter(self._blocks)))
        return opened

    def wipe(self) -> None:
        """Forget all blocks."""
        for place in list(self._blocks):
            self._forget(place)

    def _forget(self, place: tuple[KmeId, int]) -> None:
        block = self._blocks.pop(place, None)
        if block is not None:
            self._n_bytes -= len(block.key)
            block.wipe()
