"""randomness - where a party's protocol randomness comes from: the operating system, or a seed."""

import hashlib
import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Randomness(Protocol):
    """Whatever hands out random bytes."""

    def draw(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes` random bytes."""
        ...


class SystemRandomness:
    """Random bytes of the operating system's generator."""

    def draw(self, n_bytes: int) -> bytes:
        """Return `n_bytes` bytes that nobody could have foreseen."""
        return os.urandom(n_bytes)


class SeededRandomness:
    """The same bytes whenever the seed and the label are the same.

    For runs that must be repeatable. Keys made with it are no secret.

    Parameters
    ----------
    seed
        Any integer.
    label
        Keeps the streams of two users of one seed apart.
    """

    def __init__(self, seed: int, label: str) -> None:
        self._prefix = f"{seed}/{label}/"
        self._n_drawn = 0

    def draw(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes` bytes of the stream."""
        self._n_drawn += 1
        name = f"{self._prefix}{self._n_drawn}"
        return hashlib.shake_256(name.encode()).digest(n_bytes)


def draw_bits(randomness: Randomness, n_bits: int) -> NDArray[np.uint8]:
    """Return (`n_bits`,) random bits, one per element."""
    drawn = np.frombuffer(randomness.draw(-(-n_bits // 8)), np.uint8)
    return np.unpackbits(drawn, count=n_bits)


def draw_below(randomness: Randomness, bound: int) -> int:
    """Return a number below `bound`, each equally likely (bits are drawn until one fits)."""
    n_bits = (bound - 1).bit_length()
    while True:
        value = int.from_bytes(randomness.draw(-(-n_bits // 8)), "little") & ((1 << n_bits) - 1)
        if value < bound:
            return value


def subseed(seed: bytes, use: str, index: int) -> np.uint64:
    """Return one word for one use of a seed that both parties know."""
    digest = hashlib.sha256(seed + f"/{use}/{index}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))
