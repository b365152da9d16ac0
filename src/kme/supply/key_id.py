"""key_id - ids that certify themselves: where a key lies, and a tag over whom it is for."""

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from kme.encoding import encode_fields
from kme.errors import IdentifierError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.records import GranuleRange

_LABEL: Final = b"kme key_ID 1"
"""Keeps these tags apart from any other use of the same key."""

_PLACE: Final = struct.Struct(">IQIIII")
"""Block number, offset and length as `encode_fields` would write them, each behind its length."""

_TAG_BYTES: Final = 8
_SPARE_BITS: Final = 8 * _TAG_BYTES - KeyId.TAG_BITS


@dataclass(frozen=True, slots=True)
class IdScope:
    """Whom a key is for: what stands in its id's tag beside the place.

    Parameters
    ----------
    pair
        The two KMEs that share the block, in alphabetical order, so that both
        write the same.
    master_kme, slave_kme
        Where the two SAEs live.
    master
        The SAE that is given the key first.
    slave
        The SAE that asks for it by its id.
    """

    pair: tuple[KmeId, KmeId]
    master_kme: KmeId
    slave_kme: KmeId
    master: SaeId
    slave: SaeId

    @classmethod
    def on_link(cls, master: tuple[SaeId, KmeId], slave: tuple[SaeId, KmeId]) -> "IdScope":
        """Return the scope of two SAEs, each with its home, whose KMEs share the link."""
        (master_sae, master_kme), (slave_sae, slave_kme) = master, slave
        first, second = sorted((master_kme, slave_kme))
        return cls((first, second), master_kme, slave_kme, master_sae, slave_sae)

    def encoded(self) -> bytes:
        """Return the scope as bytes that no other scope shares."""
        fields = (*self.pair, self.master_kme, self.slave_kme, self.master, self.slave)
        return encode_fields(_LABEL, *(field.encode("ascii") for field in fields))


def make_key_id(
    id_key: Secret, encoded_scope: bytes, block_number: int, offset_granules: int, n_bytes: int
) -> KeyId:
    """Make the id of a key.

    Parameters
    ----------
    id_key
        The block's own key for ids.
    encoded_scope
        Whom the key is for (`IdScope.encoded`; many ids may share it).
    block_number
        Which block of the pair the key lies in.
    offset_granules
        Where in the block it starts, in granules of 8 bytes.
    n_bytes
        How long it is, in bytes.

    Returns
    -------
    KeyId
        The place and the tag over place and scope.

    Raises
    ------
    IdentifierError
        If the place doesn't fit a key_ID.

    Notes
    -----
    The tag is the first 62 bits of HMAC-SHA-256 [1]_. Whoever lacks the
    block's id key and guesses ids has one of `n` tries accepted with a
    probability of at most ``n * 2**-62``, beyond what breaking HMAC as a
    pseudo-random function would give; a valid id of another place, block or
    pair of SAEs doesn't help. Each try is a request of an authenticated SAE.

    References
    ----------
    .. [1] NIST FIPS 198-1; truncation: NIST SP 800-107 rev. 1, section 5.3.3.
    """
    tag = _tag(id_key, encoded_scope, block_number, offset_granules, n_bytes)
    return KeyId(block_number, offset_granules, n_bytes, tag)


def is_made_for(id_key: Secret, encoded_scope: bytes, key_id: KeyId) -> bool:
    """Return whether an id was made with this key for this scope; takes constant time.

    Parameters
    ----------
    id_key
        The key for ids of the block that the id names.
    encoded_scope
        Whom the key would have to be for (`IdScope.encoded`).
    key_id
        The id as it came in.
    """
    expected = _tag(
        id_key, encoded_scope, key_id.block_number, key_id.offset_granules, key_id.n_bytes
    )
    return hmac.compare_digest(
        expected.to_bytes(_TAG_BYTES, "big"), key_id.tag.to_bytes(_TAG_BYTES, "big")
    )


def range_of(key_id: KeyId) -> GranuleRange:
    """Return the range that a key occupies.

    Raises
    ------
    InputError
        If it touches the block's reserved bytes.
    """
    start = key_id.offset_granules
    return GranuleRange(key_id.block_number, start, start + key_id.n_granules)


def _tag(
    id_key: Secret, encoded_scope: bytes, block_number: int, offset_granules: int, n_bytes: int
) -> int:
    """Return the first 62 bits of the HMAC over scope and place."""
    try:
        place = _PLACE.pack(8, block_number, 4, offset_granules, 4, n_bytes)
    except struct.error as error:
        raise IdentifierError("a key's place does not fit a key_ID") from error
    digest = hmac.digest(id_key.reveal(), encoded_scope + place, "sha256")
    return int.from_bytes(digest[:_TAG_BYTES], "big") >> _SPARE_BITS
