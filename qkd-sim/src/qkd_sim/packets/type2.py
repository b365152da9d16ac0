"""type2 - the low-count side's packet to the other side: when it detected, and in which basis."""

from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from kme.ids import Epoch
from kme.units import TICKS_PER_EPOCH
from qkd_sim.packets import entries
from qkd_sim.packets.packet import Packet
from qkd_sim.packets.source import Header, PacketSource, header_bytes

_HEADER_BYTES: Final = 24


@dataclass(frozen=True, eq=False)
class Type2(Packet):
    """Times and bases of one epoch, as the high-count side will decode them.

    Parameters
    ----------
    epoch
        Which epoch.
    offsets_ticks : (n,) ndarray of int64
        Times within the epoch in ticks of 125 ps, each at least 2 behind the
        one before, the first at least 2. They may pass 2^32 by up to 2 ticks
        per event (see `qkd_sim.chopper.sent_offsets`).
    bases : (n,) ndarray of uint8
        What is told about each detector pattern, below ``2**base_bits``.
    width_bits
        Bits of a short time difference.
    base_bits
        Bits of each basis.
    protocol
        Number of the protocol, see `qkd_sim.protocols`.
    is_universal
        Whether the epoch is counted from 1970.
    """

    epoch: Epoch
    offsets_ticks: NDArray[np.int64] = field(repr=False)
    bases: NDArray[np.uint8] = field(repr=False)
    width_bits: int
    base_bits: int
    protocol: int
    is_universal: bool = False

    TYPE: ClassVar[int] = 2

    def pack(self) -> bytes:
        """Return header and time differences.

        Raises
        ------
        InputError
            If a width, a time or a basis is out of range.
        """
        title = f"type 2 of epoch {self.epoch}"
        if not 0 <= self.protocol < 1 << 32:
            raise InputError(f"{title}: protocol {self.protocol} does not fit into a word")
        layout = entries.EntryFormat(self.width_bits, self.base_bits)
        differences = np.diff(self.offsets_ticks, prepend=0)
        body = entries.encode(entries.Entries(differences, self.bases), layout, title)
        rest = (self.width_bits, self.base_bits, self.protocol)
        header = Header(self.epoch, self.is_universal, int(self.bases.size), rest)
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
        width_bits, base_bits, protocol = header.rest
        layout = entries.EntryFormat(width_bits, base_bits)
        if layout.broken_rule:
            source.fail(12, layout.broken_rule)
        read, n_bytes = entries.decode(source, _HEADER_BYTES, header.n_entries, layout)
        offsets = np.cumsum(read.values)
        # every event that is too near to its predecessor delays the rest by 2 ticks
        is_late = offsets >= TICKS_PER_EPOCH + 2 * offsets.size
        if is_late.any():
            at = int(np.argmax(is_late))
            place = _HEADER_BYTES + entries.offset_bytes(read.values, layout, at)
            source.fail(place, f"entry {at} lies behind the epoch's end")
        packet = cls(
            header.epoch, offsets, read.data, width_bits, base_bits, protocol, header.is_universal
        )
        return packet, n_bytes
