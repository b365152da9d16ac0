"""ports - what every supply of keys promises to the interfaces that hand keys out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.records import SourceClass, Stock
from kme.units import GRANULE_BYTES, granules_of_bytes


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the identifier by which the other SAE asks for it."""

    key_id: KeyId
    key: Secret


@dataclass(frozen=True, slots=True)
class SupplyStock:
    """What one pair of SAEs could be given now.

    Parameters
    ----------
    target
        The KME where the slave SAE lives.
    is_peer_alive
        Whether that KME was heard within its lease; if not, nothing can be
        handed out, whatever is in stock.
    source_classes
        How the key in stock came to be, as far as it is known without
        reading every block: the class of the newest block and of those that
        keys are being cut from. Empty before the first block.
    room
        Pieces that keys can be cut from, by their length in granules.
    kept_bytes
        So much of it is kept for other pairs of SAEs.
    """

    target: KmeId
    is_peer_alive: bool
    source_classes: frozenset[SourceClass]
    room: Stock
    kept_bytes: int = 0

    @property
    def is_quantum(self) -> bool:
        """Whether all key that is known of comes from quantum key distribution."""
        return self.source_classes == {SourceClass.QKD}

    @property
    def free_bytes(self) -> int:
        """All bytes that may still be handed out once the peer is alive."""
        return max(0, self.room.n_bytes - self.kept_bytes)

    @property
    def max_key_bytes(self) -> int:
        """Length in bytes of the longest key that can be had now; 0 if there is none."""
        return min(self.room.max_key_bytes, KeyId.MAX_BYTES) if self.is_peer_alive else 0

    def count_of(self, n_bytes: int) -> int:
        """Return how many keys of `n_bytes` bytes can be had now."""
        if not self.is_peer_alive or not 1 <= n_bytes <= KeyId.MAX_BYTES:
            return 0
        n_kept = -(-self.kept_bytes // (granules_of_bytes(n_bytes) * GRANULE_BYTES))
        return max(0, self.room.count_of(n_bytes) - n_kept)


class KeySupply(Protocol):
    """Keys for pairs of SAEs.

    Both methods that hand out keys are all-or-nothing: a list of the full
    length or an error, never a short answer.
    """

    async def new_keys(
        self,
        master: SaeId,
        slave: SaeId,
        n_keys: int,
        n_bytes: int,
        more_slaves: Sequence[SaeId] = (),
    ) -> list[Key]:
        """Cut fresh keys for a master SAE of this KME and the slave SAEs that it names.

        Parameters
        ----------
        master
            The SAE that asks; it lives here.
        slave
            The SAE that will ask its own KME for the same keys.
        n_keys
            How many.
        n_bytes
            How long each is, in bytes; 1 to 8192.
        more_slaves
            Further SAEs, of any KME, that will ask for the same keys, each once.

        Returns
        -------
        list of Key
            `n_keys` keys that nobody was given before and nobody but these
            SAEs will be given. What further slaves need is durable at their KMEs.

        Raises
        ------
        RequestError
            If an SAE is unknown, lives where this supply cannot serve it, or
            the amount is out of range.
        OutOfKeysError
            If too few bytes are in stock; none is handed out then.
        PeerUnavailableError
            If the KME of a slave was not heard within its lease, or doesn't take
            a key for a further slave: it is burnt then.
        UnavailableError
            If the store doesn't answer, or the supply is not open.
        """
        ...

    async def keys_by_id(self, master: SaeId, caller: SaeId, key_ids: Sequence[KeyId]) -> list[Key]:
        """Hand out, once, the keys that a master SAE was given, of another KME or of this one.

        Parameters
        ----------
        master
            The SAE that the keys were cut for.
        caller
            The SAE that asks; it lives here.
        key_ids
            Which keys; no id twice, because no key is delivered twice and an
            answer shorter than the question would be no answer.

        Returns
        -------
        list of Key
            The keys in the order of `key_ids`; they can't be had again.

        Raises
        ------
        RequestError
            If an SAE is unknown or lives elsewhere, or an id is listed twice.
        KeyNotFoundError
            If at least one key doesn't exist or was handed out already; none
            is handed out then.
        NotEntitledError
            If at least one key is another SAE's of this KME; none is handed
            out then.
        PeerUnavailableError
            If no heartbeat with the master's KME was accepted since this
            process started.
        UnavailableError
            If the store doesn't answer: the keys may be burnt.
        """
        ...

    async def stock(self, master: SaeId, slave: SaeId) -> SupplyStock:
        """Return what `new_keys` could hand out to this pair of SAEs.

        Raises
        ------
        RequestError
            As `new_keys`.
        StoreUnavailableError
            If the store doesn't answer.
        """
        ...
