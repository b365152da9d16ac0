"""offer - what one KME offers to its SAEs: sizes and counts."""

from dataclasses import dataclass
from typing import Final

from kme.errors import SettingsError
from kme.ids import KeyId, KmeId
from kme.supply.grants import MAX_SLAVES
from kme.units import BITS_PER_BYTE

_MAX_COUNT: Final = 2**31 - 1
"""Clients read counters into 32 bits with sign."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What SAEs may ask this KME for; Status says it to them.

    Parameters
    ----------
    source
        This KME.
    key_size_bits
        Size of a key if a request names none.
    min_key_size_bits, max_key_size_bits
        Bounds of what a request may name.
    max_keys_per_request
        How many keys one request may be about.
    max_key_count
        Upper bound of the number of stored keys that is ever told.
    max_more_slaves
        How many additional slave SAEs a request may name; 0 for none.

    Raises
    ------
    SettingsError
        If the bounds contradict each other or are out of range.
    """

    source: KmeId
    key_size_bits: int = 256
    min_key_size_bits: int = 8
    max_key_size_bits: int = KeyId.MAX_BYTES * BITS_PER_BYTE
    max_keys_per_request: int = 128
    max_key_count: int = 1_000_000
    max_more_slaves: int = 8

    def __post_init__(self) -> None:
        sizes = (self.min_key_size_bits, self.key_size_bits, self.max_key_size_bits)
        largest = KeyId.MAX_BYTES * BITS_PER_BYTE
        if any(size % BITS_PER_BYTE or not 0 < size <= largest for size in sizes):
            raise SettingsError(f"key sizes must be multiples of 8 in 8..{largest} bits: {sizes}")
        if sorted(sizes) != list(sizes):
            raise SettingsError(
                f"key sizes must rise from the least over the default to the largest: {sizes}"
            )
        if not 1 <= self.max_keys_per_request <= self.max_key_count <= _MAX_COUNT:
            raise SettingsError(
                f"1 <= keys per request ({self.max_keys_per_request}) <= key count "
                f"({self.max_key_count}) <= {_MAX_COUNT} must hold"
            )
        if not 0 <= self.max_more_slaves <= MAX_SLAVES:
            raise SettingsError(
                f"0 to {MAX_SLAVES} additional slave SAEs can be offered,"
                f" not {self.max_more_slaves}"
            )
