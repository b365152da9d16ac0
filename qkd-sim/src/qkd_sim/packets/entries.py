"""entries - the differences of types 2 and 4: checked before the kernel runs, explained after."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from qkd_sim.kernels.deltas import decode_entries, encode_entries
from qkd_sim.packets.source import WORD_BYTES, PacketSource

MIN_VALUE: Final = 2
"""0 announces a long entry and 1 the end."""

MAX_VALUE: Final = (1 << 32) - 1
MIN_WIDTH_BITS: Final = 2
MAX_BASE_BITS: Final = 8

_FAILURES: Final = {
    1: "cut off: no end mark",
    2: "more entries than the header says",
    3: "end mark with data bits set",
    4: "long entry whose value fits a short one",
    5: "bits set behind the end mark",
}


@dataclass(frozen=True, slots=True)
class EntryFormat:
    """How wide the entries are.

    Parameters
    ----------
    width_bits
        Bits of a short difference, 2 to 32.
    base_bits
        Bits of data with each, 0 to 8; both together at most 32.
    """

    width_bits: int
    base_bits: int

    @property
    def broken_rule(self) -> str:
        """Why there cannot be such entries, or nothing."""
        if not 0 <= self.base_bits <= MAX_BASE_BITS:
            return f"base bits are {self.base_bits}, not 0..{MAX_BASE_BITS}"
        if not MIN_WIDTH_BITS <= self.width_bits <= 32 - self.base_bits:
            return (
                f"width is {self.width_bits} bits,"
                f" not {MIN_WIDTH_BITS}..{32 - self.base_bits} beside {self.base_bits} base bits"
            )
        return ""

    @property
    def short_bits(self) -> int:
        """How many bits a short entry takes."""
        return self.width_bits + self.base_bits

    def n_bits(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many bits each entry takes."""
        return np.where(values >> self.width_bits != 0, self.short_bits + 32, self.short_bits)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Entries:
    """Differences and what goes with each.

    Parameters
    ----------
    values : (n,) ndarray of int64
        Differences, 2 to 2^32 - 1.
    data : (n,) ndarray of uint8
        Data of each.
    """

    values: NDArray[np.int64]
    data: NDArray[np.uint8]


def encode(entries: Entries, layout: EntryFormat, title: str) -> bytes:
    """Return the entries and the end mark as whole words.

    Raises
    ------
    InputError
        If a width, a difference or its data is out of range; `title` says of
        which packet.
    """
    values, data = entries.values, entries.data
    if layout.broken_rule:
        raise InputError(f"{title}: {layout.broken_rule}")
    if values.ndim != 1 or values.shape != data.shape:
        raise InputError(f"{title}: {values.shape} differences, but data of shape {data.shape}")
    if values.size and not MIN_VALUE <= int(values.min()) <= int(values.max()) <= MAX_VALUE:
        at = int(np.argmax((values < MIN_VALUE) | (values > MAX_VALUE)))
        raise InputError(f"{title}: entry {at} is too near to or too far from the one before")
    if data.size and int(data.max()) >> layout.base_bits:
        raise InputError(f"{title}: data do not fit into {layout.base_bits} bits")
    n_bits = int(layout.n_bits(values).sum()) + layout.short_bits
    words = np.empty(-(-n_bits // 32), np.uint32)
    encode_entries(
        np.ascontiguousarray(values, np.int64),
        np.ascontiguousarray(data, np.uint8),
        layout.width_bits,
        layout.base_bits,
        words,
    )
    return words.astype("<u4", copy=False).tobytes()


def decode(
    source: PacketSource, header_bytes: int, n_entries: int, layout: EntryFormat
) -> tuple[Entries, int]:
    """Read entries up to their end mark.

    Parameters
    ----------
    source
        The packet.
    header_bytes
        How long its header is.
    n_entries
        How many entries the header promises; 0 leaves it to the end mark.
    layout
        How wide the entries are.

    Returns
    -------
    entries : Entries
        What was read.
    n_bytes : int
        Length of the packet.

    Raises
    ------
    EpochFileError
        If the promise or an entry breaks the format.
    """
    n_words = source.n_words_behind(header_bytes)
    most = max(0, n_words * 32 // layout.short_bits - 1)
    if n_entries > most:
        source.fail(8, f"{n_entries} entries do not fit into {n_words} words")
    values = np.empty(n_entries or most, np.int64)
    data = np.empty(values.size, np.uint8)
    words = source.words(header_bytes, n_words)
    n_read, end_bit, status = decode_entries(
        words, layout.width_bits, layout.base_bits, values, data
    )
    at_bytes = header_bytes + end_bit // 32 * WORD_BYTES
    if status:
        source.fail(at_bytes, _FAILURES[status])
    if n_entries not in {0, n_read}:
        source.fail(8, f"the header says {n_entries} entries; the end mark stands after {n_read}")
    return Entries(values[:n_read], data[:n_read]), at_bytes


def offset_bytes(values: NDArray[np.int64], layout: EntryFormat, at: int) -> int:
    """Return in which byte of the entries number `at` begins, to name it in an error."""
    return int(layout.n_bits(values[:at]).sum()) // 8
