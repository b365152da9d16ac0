"""type1 - the high-count side's packet: the raw events of one epoch, as they were recorded."""

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np

from kme.errors import InputError
from kme.ids import Epoch
from qkd_sim.events import RECORD_BYTES, Events
from qkd_sim.packets.packet import Packet
from qkd_sim.packets.source import Header, PacketSource, header_bytes

_HEADER_BYTES: Final = 20
_BITS_PER_ENTRY: Final = 49
_BASE_BITS: Final = 4
_LOCAL_EPOCH_MASK: Final = (1 << Epoch.LOCAL_BITS) - 1


@dataclass(frozen=True, eq=False)
class Type1(Packet):
    """Raw events of one epoch.

    Parameters
    ----------
    epoch
        Which epoch; its lowest 17 bits are the highest of every event's time.
    events
        The events with their 49-bit times, in order of time, duplicates
        included. None may be all zero, which is the end mark.
    is_universal
        Whether the epoch is counted from 1970.
    """

    epoch: Epoch
    events: Events
    is_universal: bool = False

    TYPE: ClassVar[int] = 1
    FILE_MODE: ClassVar[int] = 0o600
    MAX_BYTES: ClassVar[int] = 1 << 28

    def pack(self) -> bytes:
        """Return header, records of 8 bytes, and the end mark.

        Raises
        ------
        InputError
            If an event is all zero, out of order or not of this epoch.
        """
        at, rule = _first_broken_rule(self.events, self.epoch)
        if rule:
            raise InputError(f"type 1 of epoch {self.epoch}: event {at} {rule}")
        rest = (_BITS_PER_ENTRY, _BASE_BITS)
        header = Header(self.epoch, self.is_universal, len(self.events), rest)
        return header_bytes(self.TYPE, header) + self.events.pack() + bytes(RECORD_BYTES)

    @classmethod
    def parse(cls, source: PacketSource) -> tuple[Self, int]:
        """Read a packet; a length of 0 leaves the end to the end mark.

        Raises
        ------
        EpochFileError
            If the packet breaks the format.
        """
        header = source.header(cls.TYPE, _HEADER_BYTES // 4)
        if header.rest != (_BITS_PER_ENTRY, _BASE_BITS):
            source.fail(12, f"bits per entry and base bits are {header.rest}, not (49, 4)")
        n_events = header.n_entries or _events_before_end_mark(source)
        end_bytes = _HEADER_BYTES + RECORD_BYTES * (n_events + 1)
        if source.n_bytes < end_bytes:
            source.fail(8, f"{n_events} events need {end_bytes} bytes; {source.n_bytes} are there")
        first = source.start_bytes + _HEADER_BYTES
        last = source.start_bytes + end_bytes - RECORD_BYTES
        if any(source.data[last : last + RECORD_BYTES]):
            source.fail(end_bytes - RECORD_BYTES, f"no end mark after {n_events} events")
        events = Events.unpack(memoryview(source.data)[first:last], source.name, first)
        at, rule = _first_broken_rule(events, header.epoch)
        if rule:
            source.fail(_HEADER_BYTES + RECORD_BYTES * at, f"event {at} {rule}")
        return cls(header.epoch, events, header.is_universal), end_bytes


def _events_before_end_mark(source: PacketSource) -> int:
    """Return how many records stand before the first that is all zero."""
    n_records = (source.n_bytes - _HEADER_BYTES) // RECORD_BYTES
    words = source.words(_HEADER_BYTES, 2 * n_records).reshape(-1, 2)
    is_end = ~words.any(axis=1)
    if not is_end.any():
        source.fail(source.n_bytes, "cut off: no end mark")
    return int(np.argmax(is_end))


def _first_broken_rule(events: Events, epoch: Epoch) -> tuple[int, str]:
    """Return the first event that may not stand in this epoch's packet, and why; or no reason."""
    times = events.times_ticks
    checks = (
        (times >> 32 != epoch.number & _LOCAL_EPOCH_MASK, "is not of this epoch"),
        (np.diff(times, prepend=times[:1]) < 0, "is earlier than the one before"),
        ((times == 0) & (events.patterns == 0), "is all zero, which is the end mark"),
    )
    broken = [(int(np.argmax(is_bad)), rule) for is_bad, rule in checks if is_bad.any()]
    return min(broken, key=lambda found: found[0], default=(0, ""))
