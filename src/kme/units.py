"""units - bits, bytes, granules and ticks: exact, or an error."""

from typing import Final

from kme.errors import RequestError

BITS_PER_BYTE: Final = 8
GRANULE_BYTES: Final = 8
"""Keys start on a granule of their block; the ledger has one bit for each."""

TICKS_PER_NS: Final = 8
"""A tick of the photon chain is 125 ps."""

TICKS_PER_EPOCH: Final = 1 << 32
"""An epoch is 2^32 ticks = 2^29 ns = 0.536870912 s."""

EPOCH_NS: Final = 1 << 29
EPOCH_SECONDS: Final = EPOCH_NS / 1e9


def bytes_of_bits(size_bits: int) -> int:
    """Return how many bytes `size_bits` bits are.

    Raises
    ------
    RequestError
        If the bits do not fill whole bytes (text: ETSI GS QKD 014 clause 6.2).

    Examples
    --------
    >>> bytes_of_bits(256)
    32
    """
    n_bytes, rest = divmod(size_bits, BITS_PER_BYTE)
    if rest:
        raise RequestError("size shall be a multiple of 8")
    return n_bytes


def granules_of_bytes(n_bytes: int) -> int:
    """Return how many granules a key of `n_bytes` bytes occupies, the last one perhaps in part.

    Examples
    --------
    >>> granules_of_bytes(33)
    5
    """
    return -(-n_bytes // GRANULE_BYTES)
