"""compare - blocks in, tags out by which two KMEs see whether their blocks are the same."""

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kme.encoding import encode_fields
from kme.ids import KmeId
from kme.pairing.ports import BlockTag, Comparison
from kme.pairing.tags import id_key
from kme.secret import Secret

COMPARE_TAG_BYTES: Final = 32

MAX_COMPARED: Final = 64
"""So many blocks are compared in one exchange: at most 4 MiB are read for it at either end."""

_LABEL: Final = b"kme compare: key for tags of paired blocks, version 1"


def compare_tag(pair: tuple[KmeId, KmeId], number: int, block: Secret) -> BlockTag:
    """Return the tag of a paired block.

    It is HMAC-SHA-256 over the pair, the number and all bytes of the block,
    under a key that HKDF-SHA-256 (RFC 5869) derives from the block's id key
    with a label of its own. Whoever lacks the id key learns nothing from it
    that could be computed, and tags of key_IDs are under another key.

    Parameters
    ----------
    pair
        The two KMEs, the smaller id first.
    number
        The block's number.
    block
        All its bytes.

    Raises
    ------
    PairingError
        If the block is too short to have keys of its own.
    """
    key = HKDF(SHA256(), COMPARE_TAG_BYTES, salt=None, info=_LABEL).derive(id_key(block).reveal())
    text = encode_fields(pair[0].encode(), pair[1].encode(), number.to_bytes(8, "big"))
    return BlockTag(number, hmac.digest(key, text + encode_fields(block.reveal()), "sha256"))


def compared(own: BlockTag | None, other: BlockTag) -> Comparison:
    """Return how the other KME's tag of a block stands to our own (None: no such block here)."""
    if own is None:
        return Comparison.ABSENT
    is_equal = hmac.compare_digest(own.tag, other.tag) and own.number == other.number
    return Comparison.EQUAL if is_equal else Comparison.UNEQUAL
