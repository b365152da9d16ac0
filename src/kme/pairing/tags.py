"""tags - what a block's first 64 bytes are for: the key of one tag, and the id key."""

import hmac
from typing import Final

from cryptography.hazmat.primitives.poly1305 import Poly1305

from kme.encoding import encode_fields
from kme.errors import PairingError
from kme.ids import KmeId
from kme.secret import Secret
from kme.store.records import RESERVED_BYTES, FinalKeyRef, Proposal

TAG_BYTES: Final = 16

_PURPOSE: Final = b"kme pairing: key block, version 1"
_TAG_KEY_BYTES: Final = 32
# RFC 8439 section 2.5 ignores these 22 bits of a Poly1305 key. They are sent to the tag
# as text, or a difference in one of them would go unseen.
_UNUSED_KEY_BITS: Final = bytes.fromhex("000000f0030000f0030000f0030000f0")


def make_tag(pair: tuple[KmeId, KmeId], proposal: Proposal, block: Secret) -> bytes:
    """Return the tag of a proposal under the block's own first 32 bytes.

    The key is spent with it: never make a tag for another proposal that
    begins with the same final key, unless this one never leaves the KME.

    Parameters
    ----------
    pair
        The two KMEs, the smaller id (the leader) first.
    proposal
        All of it is authenticated, but the tag that it carries already.
    block
        The bytes of all entries, in order.

    Returns
    -------
    bytes
        16 bytes: Poly1305 over the pair, number, owner, lifetime, class, list
        of entries and bytes 32 to the end of the block, each with its length.

    Raises
    ------
    PairingError
        If the block is too short to have the keys of its own in it.

    References
    ----------
    RFC 8439 section 2.5; the one-time key is as good as the QKD key itself,
    and so the tag is information-theoretically secure (Wegman and Carter, 1981).
    """
    _check_block(block)
    key = block[:_TAG_KEY_BYTES].reveal()
    unused = bytes(byte & mask for byte, mask in zip(key, _UNUSED_KEY_BITS, strict=False))
    text = encode_fields(
        _PURPOSE,
        pair[0].encode(),
        pair[1].encode(),
        _number(proposal.number),
        proposal.owner.encode(),
        _number(proposal.lifetime_s),
        proposal.source_class.encode(),
        encode_fields(*map(_encode_ref, proposal.entries)),
        unused,
        block[_TAG_KEY_BYTES:].reveal(),
    )
    return Poly1305.generate_tag(key, text)


def has_right_tag(pair: tuple[KmeId, KmeId], proposal: Proposal, block: Secret) -> bool:
    """Return whether a proposal's tag is that of this block, compared in constant time.

    Raises
    ------
    PairingError
        As `make_tag` does.
    """
    return hmac.compare_digest(make_tag(pair, proposal, block), proposal.tag)


def id_key(block: Secret) -> Secret:
    """Return the 32 bytes under which the block's key_IDs certify themselves.

    Raises
    ------
    PairingError
        If the block is too short.
    """
    _check_block(block)
    return block[_TAG_KEY_BYTES:RESERVED_BYTES]


def _check_block(block: Secret) -> None:
    if len(block) < RESERVED_BYTES:
        raise PairingError(f"a block of {len(block)} bytes has no keys of its own")


def _encode_ref(ref: FinalKeyRef) -> bytes:
    return encode_fields(ref.source.encode(), _number(ref.epoch.number), _number(ref.part))


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
