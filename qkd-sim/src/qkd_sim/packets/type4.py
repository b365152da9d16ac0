"""type4 - the high-count side's answer: which of the other side's events were kept."""

from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from kme.ids import Epoch
from qkd_sim.packets import entries
from qkd_sim.packets.packet import Packet
from qkd_sim.packets.source import Header, PacketSource, header_bytes

_HEADER_BYTES: Final = 20
_SHIFT: Final = 2
"""Added to each difference of indices, because 0 and 1 have a meaning of their own."""


@dataclass(frozen=True, eq=False)
class Type4(Packet):
    """Indices of the type-2 entries that were kept.

    Parameters
    ----------
    epoch
        Which epoch.
    indices : (n,) ndarray of int64
        Strictly increasing, the first entry of type 2 being 0.
    data : (n,) ndarray of uint8
        What goes with each, below ``2**base_bits``.
    width_bits
        Bits of a short difference of indices.
    base_bits
        Bits of each datum; 0 in BB84.
    is_universal
        Whether the epoch is counted from 1970.
    """

    epoch: Epoch
    indices: NDArray[np.int64] = field(repr=False)
    data: NDArray[np.uint8] = field(repr=False)
    width_bits: int
    base_bits: int
    is_universal: bool = False

    TYPE: ClassVar[int] = 4

    def pack(self) -> bytes:
        """Return header and differences of indices.

        Raises
        ------
        InputError
            If a width, an index or a datum is out of range.
        """
        # an index that repeats its predecessor must not pass for one that is kept
        differences = np.diff(self.indices, prepend=0)
        values = np.where(differences > 0, differences + _SHIFT, 0)
        values[:1] = self.indices[:1] + _SHIFT
        layout = entries.EntryFormat(self.width_bits, self.base_bits)
        title = f"type 4 of epoch {self.epoch}"
        body = entries.encode(entries.Entries(values, self.data), layout, title)
        rest = (self.width_bits, self.base_bits)
        header = Header(self.epoch, self.is_universal, int(self.indices.size), rest)
        return header_bytes(self.TYPE, header) + body

    @classmethod
    def parse(cls, source: PacketSource) -> tuple[Self, int]:
        """Read a packet; a length of 0 leaves the end to the end mark.

        Raises
        ------
        EpochFileError
            If the packet breaks the format.
        """
        header = source.header(cls.TYPE, _HEADER_BYTES // 4)
        width_bits, base_bits = header.rest
        layout = entries.EntryFormat(width_bits, base_bits)
        if layout.broken_rule:
            source.fail(12, layout.broken_rule)
        read, n_bytes = entries.decode(source, _HEADER_BYTES, header.n_entries, layout)
        steps = read.values - _SHIFT
        is_repeated = steps[1:] == 0
        if is_repeated.any():
            at = 1 + int(np.argmax(is_repeated))
            place = _HEADER_BYTES + entries.offset_bytes(read.values, layout, at)
            source.fail(place, f"entry {at} repeats the index before")
        indices = np.cumsum(steps)
        packet = cls(header.epoch, indices, read.data, width_bits, base_bits, header.is_universal)
        return packet, n_bytes
