"""verify - whether two keys are equal, from a short hash of one of them.

The key, in words of 120 bits, is the list of coefficients of a polynomial over
the integers modulo ``p = 2**127 - 1``, taken at a random point; that value is
mapped by a random affine function, of which the upper bits are the tag. Two
different keys of ``w`` words get the same tag of ``t`` bits with a probability
of at most ``(w + 2**(127 - t)) / p``. The function is drawn afresh for every
block, after both keys are fixed.

References
----------
.. [1] J. Carter, M. Wegman, "Universal classes of hash functions", 1979.
.. [2] D. Stinson, "Universal hashing and authentication codes", 1994:
   composition.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errcd.randomness import Randomness, draw_below
from qkd_sim.errors import ChannelError

PRIME: Final = 2**127 - 1
MAX_TAG_BITS: Final = 126

_PRIME_BITS: Final = 127
_WORD_BYTES: Final = 15
_NUMBER_BYTES: Final = 16


@dataclass(frozen=True)
class KeyHash:
    """One function of the family.

    Parameters
    ----------
    point
        Where the polynomial is taken.
    factor, summand
        The affine function behind it.
    """

    point: int
    factor: int
    summand: int

    @classmethod
    def draw(cls, randomness: Randomness) -> Self:
        """Draw a function; all are equally likely."""
        return cls(*(draw_below(randomness, PRIME) for _ in range(3)))

    def pack(self) -> bytes:
        """Return the function as 48 bytes."""
        numbers = (self.point, self.factor, self.summand)
        return b"".join(number.to_bytes(_NUMBER_BYTES, "little") for number in numbers)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a function.

        Raises
        ------
        ChannelError
            If it is none of the family.
        """
        numbers = [
            int.from_bytes(part, "little")
            for (part,) in struct.iter_unpack(f"{_NUMBER_BYTES}s", data)
        ]
        if len(numbers) != 3 or max(numbers) >= PRIME:
            raise ChannelError("the peer names a hash function that is none")
        return cls(*numbers)

    def tag(self, key: NDArray[np.uint8], tag_bits: int) -> bytes:
        """Hash a key.

        Parameters
        ----------
        key : (n,) ndarray of uint8
            One bit per element.
        tag_bits
            Length of the tag, at most `MAX_TAG_BITS`.

        Returns
        -------
        bytes
            16 bytes, of which `tag_bits` bits depend on the key.
        """
        packed = np.packbits(key).tobytes()
        value = key.size
        for first in range(0, len(packed), _WORD_BYTES):
            word = int.from_bytes(packed[first : first + _WORD_BYTES], "little")
            value = (value * self.point + word) % PRIME
        value = (value * self.factor + self.summand) % PRIME
        return (value >> (_PRIME_BITS - tag_bits)).to_bytes(_NUMBER_BYTES, "little")


def collision_bound(key_bits: int, tag_bits: int) -> Fraction:
    """Return the greatest probability that two different keys have the same tag."""
    n_words = -(-key_bits // (8 * _WORD_BYTES))
    return Fraction(n_words + 2 ** (_PRIME_BITS - tag_bits), PRIME)
