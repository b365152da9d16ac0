"""type3 - what a side keeps: measured results, and later its sifted key; bit-packed."""

from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from kme.ids import Epoch
from qkd_sim.kernels.bitpack import pack_bits, unpack_bits
from qkd_sim.packets.packet import Packet
from qkd_sim.packets.source import WORD_BYTES, Header, PacketSource, header_bytes

_HEADER_BYTES: Final = 16
_MAX_BITS: Final = 8


@dataclass(frozen=True, eq=False)
class Type3(Packet):
    """Results or sifted key of one epoch. This is secret: `repr` doesn't show the values.

    Parameters
    ----------
    epoch
        Which epoch.
    values : (n,) ndarray of uint8
        The entries, each below ``2**bits_per_entry``.
    bits_per_entry
        Bits of each, 1 to 8.
    is_universal
        Whether the epoch is counted from 1970.
    """

    epoch: Epoch
    values: NDArray[np.uint8] = field(repr=False)
    bits_per_entry: int
    is_universal: bool = False

    TYPE: ClassVar[int] = 3
    FILE_MODE: ClassVar[int] = 0o600

    def pack(self) -> bytes:
        """Return header and packed entries.

        Raises
        ------
        InputError
            If an entry doesn't fit, or there is no such number of bits.
        """
        title = f"type 3 of epoch {self.epoch}"
        if not 1 <= self.bits_per_entry <= _MAX_BITS:
            raise InputError(f"{title}: {self.bits_per_entry} bits per entry, not 1..{_MAX_BITS}")
        if self.values.ndim != 1 or self.values.size >= 1 << 32:
            raise InputError(f"{title}: entries of shape {self.values.shape}")
        if self.values.size and int(self.values.max()) >> self.bits_per_entry:
            raise InputError(f"{title}: entries do not fit into {self.bits_per_entry} bits")
        words = np.empty(_n_words(self.values.size, self.bits_per_entry), np.uint32)
        pack_bits(np.ascontiguousarray(self.values, np.uint8), self.bits_per_entry, words)
        rest = (self.bits_per_entry,)
        header = Header(self.epoch, self.is_universal, int(self.values.size), rest)
        return header_bytes(self.TYPE, header) + words.astype("<u4", copy=False).tobytes()

    @classmethod
    def parse(cls, source: PacketSource) -> tuple[Self, int]:
        """Read a packet.

        Raises
        ------
        EpochFileError
            If the packet breaks the format.
        """
        header = source.header(cls.TYPE, _HEADER_BYTES // 4)
        (n_bits,) = header.rest
        if not 1 <= n_bits <= _MAX_BITS:
            source.fail(12, f"{n_bits} bits per entry, not 1..{_MAX_BITS}")
        n_words = _n_words(header.n_entries, n_bits)
        end_bytes = _HEADER_BYTES + WORD_BYTES * n_words
        if source.n_bytes < end_bytes:
            source.fail(
                8,
                f"{header.n_entries} entries of {n_bits} bits need {end_bytes} bytes;"
                f" {source.n_bytes} are there",
            )
        words = source.words(_HEADER_BYTES, n_words)
        n_fill_bits = 32 * n_words - header.n_entries * n_bits
        if n_words and int(words[-1]) & ((1 << n_fill_bits) - 1):
            source.fail(end_bytes - WORD_BYTES, "bits set behind the last entry")
        values = np.empty(header.n_entries, np.uint8)
        unpack_bits(words, n_bits, values)
        return cls(header.epoch, values, n_bits, header.is_universal), end_bytes


def _n_words(n_entries: int, n_bits: int) -> int:
    """Return how many words hold the entries."""
    return -(-n_entries * n_bits // 32)
