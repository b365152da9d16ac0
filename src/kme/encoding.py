"""encoding - several fields as bytes that can be read in one way only."""

from typing import Final

_LENGTH_BYTES: Final = 4


def encode_fields(*fields: bytes) -> bytes:
    """Return the fields one after another, each behind its length.

    Two different lists of fields never have the same encoding, so what is
    authenticated this way has one meaning. Encodings may be joined: that is
    the encoding of the joined lists.

    Parameters
    ----------
    *fields
        Any bytes, each shorter than 2^32; its length stands before it as 4
        bytes, most significant first.

    Returns
    -------
    bytes
        Four bytes more per field than the fields themselves.

    Examples
    --------
    >>> encode_fields(b"ab", b"").hex(" ")
    '00 00 00 02 61 62 00 00 00 00'
    """
    return b"".join(
        part for field in fields for part in (len(field).to_bytes(_LENGTH_BYTES, "big"), field)
    )
