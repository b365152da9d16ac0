"""parse - paths, queries and bodies in; how many keys of how many bytes for whom, out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from kme.errors import IdentifierError, KeyNotFoundError, RequestError, RequestFieldError
from kme.etsi014.messages import KEY_ID, NUMBER, SIZE, KeyIds, KeyRequest
from kme.etsi014.offer import Offer
from kme.ids import KeyId, SaeId
from kme.units import bytes_of_bits

EXTENSIONS_UNSUPPORTED: Final = "not all extension_mandatory parameters are supported"
"""Text prescribed by ETSI GS QKD 014 V1.1.1."""

_UNSUPPORTED_MEMBER: Final = "extension_mandatory_unsupported"
_MAX_REPORTED: Final = 8
_LONGEST_NAME: Final = 64
_PATH_SEGMENTS: Final = 6  # "", "api", "v1", "keys", SAE id, method
_DECIMAL: Final = re.compile(r"[0-9]{1,9}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Query(Protocol):
    """The query of a URL: a name may occur more than once."""

    def getlist(self, key: str) -> list[str]:
        """Return all values of a name."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What enc_keys is asked for: so many keys of so many bytes each, for more slaves too."""

    n_keys: int
    n_bytes: int
    more_slaves: tuple[SaeId, ...] = ()


def sae_of_path(raw_path: bytes) -> SaeId | None:
    """Read the SAE id of a path ``/api/v1/keys/<SAE id>/<method>``.

    The path must be as it came, not decoded: an id may hold ``/`` as ``%2F``.

    Returns
    -------
    SaeId or None
        None if the path has another shape.

    Raises
    ------
    IdentifierError
        If what stands there is no SAE id.
    """
    segments = raw_path.split(b"/")
    if len(segments) != _PATH_SEGMENTS:
        return None
    try:
        return SaeId(unquote_to_bytes(segments[4]).decode("ascii"))
    except UnicodeDecodeError as error:
        raise IdentifierError("the SAE id in the path is not ASCII") from error


def key_request_of_query(query: Query) -> KeyRequest:
    """Read the simple form of a key request (clause 5.3, GET): number and size only.

    Raises
    ------
    RequestError
        If one of the two is not a number, or is there twice, or a member stands
        there that only POST can carry.
    """
    for name, field in KeyRequest.model_fields.items():
        wire_name = field.alias or name
        if wire_name not in {NUMBER, SIZE} and query.getlist(wire_name):
            raise RequestError(f"{wire_name} can only be sent in the body of a POST")
    return KeyRequest(number=_number(query, NUMBER), size=_number(query, SIZE))


def key_request_of_body(data: bytes) -> KeyRequest:
    """Read a key request; an empty body is an empty request.

    Raises
    ------
    RequestFieldError
        If it is not a key request.
    """
    return KeyRequest.parse(data) if data.strip() else KeyRequest()


def wish_of(request: KeyRequest, offer: Offer) -> Wish:
    """Hold a key request against what is offered.

    Raises
    ------
    RequestError
        If it asks for more, or for what is not supported. Texts are the
        standard's where it prescribes them.
    IdentifierError
        If an additional slave has no SAE id.
    """
    if request.extension_mandatory:
        raise RequestFieldError(EXTENSIONS_UNSUPPORTED, _unsupported(request.extension_mandatory))
    more_slaves = request.additional_slave_sae_ids or []
    if len(more_slaves) > offer.max_more_slaves:
        raise RequestError(
            f"too many additional_slave_SAE_IDs: max_SAE_ID_count is {offer.max_more_slaves}"
        )
    n_keys = 1 if request.number is None else request.number
    if not 1 <= n_keys <= offer.max_keys_per_request:
        raise RequestError(f"number must be in 1..{offer.max_keys_per_request}")
    size_bits = offer.key_size_bits if request.size is None else request.size
    n_bytes = bytes_of_bits(size_bits)
    if not offer.min_key_size_bits <= size_bits <= offer.max_key_size_bits:
        raise RequestError(
            f"size must be in {offer.min_key_size_bits}..{offer.max_key_size_bits} bits"
        )
    return Wish(n_keys, n_bytes, tuple(SaeId(name) for name in more_slaves))


def key_ids_of_query(query: Query) -> list[KeyId]:
    """Read the one key_ID of a GET (clause 5.4).

    Raises
    ------
    RequestError
        If there is none or more than one.
    IdentifierError
        If it is no UUID.
    KeyNotFoundError
        If no KME of this kind can have made it.
    """
    texts = query.getlist(KEY_ID)
    if len(texts) != 1:
        raise RequestError(f"a GET names exactly one {KEY_ID}; use POST for more")
    return [_key_id(texts[0])]


def key_ids_of_body(data: bytes, offer: Offer) -> list[KeyId]:
    """Read the key_IDs of a POST (clause 6.4), in their order.

    Raises
    ------
    RequestError
        If the body is not of that form, or names too many keys.
    IdentifierError, KeyNotFoundError
        As `key_ids_of_query`.
    """
    entries = KeyIds.parse(data).key_ids
    if len(entries) > offer.max_keys_per_request:
        raise RequestError(f"one request may name at most {offer.max_keys_per_request} key_IDs")
    return [_key_id(entry.key_id) for entry in entries]


def _key_id(text: str) -> KeyId:
    try:
        return KeyId.parse(text)
    except IdentifierError:
        if _UUID.fullmatch(text):
            # A proper key_ID by the standard, only none of ours.
            raise KeyNotFoundError("this key_ID was not made by a KME of this kind") from None
        raise


def _number(query: Query, name: str) -> int | None:
    values = query.getlist(name)
    if not values:
        return None
    if len(values) > 1 or not _DECIMAL.fullmatch(values[0]):
        raise RequestError(f"{name} must be one decimal number")
    return int(values[0])


def _unsupported(extensions: Sequence[Mapping[str, object]]) -> list[dict[str, str]]:
    names = [name for extension in extensions for name in extension] or ["(unnamed)"]
    return [
        {_UNSUPPORTED_MEMBER: f"{name[:_LONGEST_NAME]} is not supported"}
        for name in names[:_MAX_REPORTED]
    ]
