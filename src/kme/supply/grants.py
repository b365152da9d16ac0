"""grants - the same key for further slaves, masked with pads: what one KME hands to another.

The key goes out as key XOR pad. A pad is cut like any key, from a block of just
those two KMEs, and drawn where the grant is kept: so it masks one key and no
other. Its key_ID certifies itself under a scope that no two SAEs can have, so no
SAE draws a pad and no SAE's key serves as one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from kme.encoding import encode_fields
from kme.errors import InputError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.supply.ports import Key

MAX_SLAVES: Final = 64
"""A delivery names at most so many SAEs."""

MAX_DELIVERED_KEYS: Final = 128
MAX_DELIVERED_BYTES: Final = 96 * 1024
"""A delivery has at most so many keys, and no more bytes unless it is a single key."""

_PAD_LABEL: Final = b"kme grant pad 1"
_PROOF_LABEL: Final = b"kme grant 1"


@dataclass(frozen=True, slots=True)
class MaskedKey:
    """One key on its way.

    Parameters
    ----------
    key_id
        Under which SAEs ask for it.
    pad_id
        Where its pad lies: a key_ID under `pad_scope`.
    masked
        Key XOR pad, as long as both ids say.
    """

    key_id: KeyId
    pad_id: KeyId
    masked: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.masked) == self.key_id.n_bytes == self.pad_id.n_bytes:
            raise InputError("a granted key, its pad and its bytes have different lengths")


@dataclass(frozen=True, slots=True)
class Delivery:
    """Keys of one master for further slaves at one KME.

    Parameters
    ----------
    master
        The SAE that they were cut for.
    slaves
        Who may draw each of them, once.
    keys
        The keys.
    """

    master: SaeId
    slaves: tuple[SaeId, ...]
    keys: tuple[MaskedKey, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.slaves) <= MAX_SLAVES or len(set(self.slaves)) != len(self.slaves):
            raise InputError(f"a delivery names 1 to {MAX_SLAVES} slaves, none of them twice")
        if not 1 <= len(self.keys) <= MAX_DELIVERED_KEYS:
            raise InputError(f"a delivery has 1 to {MAX_DELIVERED_KEYS} keys")
        for ids in ({key.key_id for key in self.keys}, {key.pad_id for key in self.keys}):
            if len(ids) != len(self.keys):
                raise InputError("a delivery has a key or a pad twice")

    def proof_of(self, key: MaskedKey) -> bytes:
        """Return 32 bytes that only the same key, pad, master and slaves have."""
        return hashlib.sha256(
            encode_fields(
                _PROOF_LABEL,
                self.master.encode(),
                encode_fields(*sorted(slave.encode() for slave in self.slaves)),
                str(key.key_id).encode(),
                str(key.pad_id).encode(),
                key.masked,
            )
        ).digest()


class GrantLink(Protocol):
    """The way to one peer for grants; it has a time-out."""

    async def deliver(self, delivery: Delivery) -> None:
        """Have the peer keep grants; return when they are durable there.

        Raises
        ------
        UnavailableError
            If that is not known: the peer is away, or refuses.
        """
        ...


class GrantHandler(Protocol):
    """What a KME does with a peer's grants; the other end of `GrantLink`."""

    async def on_delivery(self, peer: KmeId, delivery: Delivery) -> None:
        """Keep grants durably; the same ones may come again."""
        ...


def pad_scope(master_kme: KmeId, slave_kme: KmeId) -> bytes:
    """Return whom pads from one KME to another are for; begins as no `IdScope` does."""
    return encode_fields(_PAD_LABEL, master_kme.encode(), slave_kme.encode())


def xor(one: bytes, other: bytes) -> bytes:
    """Return the exclusive or of two texts of the same length.

    Raises
    ------
    InputError
        If their lengths differ.
    """
    if len(one) != len(other):
        raise InputError("a key and its pad have different lengths")
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def masked(key: Key, pad: Key) -> MaskedKey:
    """Mask a key with its pad."""
    return MaskedKey(key.key_id, pad.key_id, xor(key.key.reveal(), pad.key.reveal()))


def unmasked(key: MaskedKey, pad: Secret) -> Secret:
    """Take the pad off a key."""
    return Secret(xor(key.masked, pad.reveal()))


def deliveries(
    master: SaeId, slaves: tuple[SaeId, ...], keys: Sequence[MaskedKey]
) -> Iterator[Delivery]:
    """Divide keys into deliveries that are not too large."""
    part: list[MaskedKey] = []
    for key in keys:
        n_bytes = sum(len(one.masked) for one in part) + len(key.masked)
        if part and (len(part) == MAX_DELIVERED_KEYS or n_bytes > MAX_DELIVERED_BYTES):
            yield Delivery(master, slaves, tuple(part))
            part = []
        part.append(key)
    if part:
        yield Delivery(master, slaves, tuple(part))
