"""messages - what errcd's two parties say to each other, and how it stands in bytes.

Every message is one byte of version, one of kind, then its fields in
little-endian order. Lengths follow from the fields and are checked: too short,
too long, unknown or out of range is a `ChannelError`. One block, in order; at
any time exactly one party has the turn, and may say `Refusal` instead:

=================  ========  =====================================================
message            from      says
=================  ========  =====================================================
Offer              Alice     which block, its length, which bits are the sample
SampleBits         Bob       his bits of the sample
SampleBits, Plan   Alice     her bits of the sample; the seed of all orders
PassRequest        Bob       parities of all blocks of a new pass
WaveRequest        Bob       bisect these intervals: parities of the lower halves
Branches           Bob       which halves are odd: bisect those
CheckRequest       Bob       parities of random subsets
Parities           Alice     the answer to each of these four
ReconcileDone      Bob       how many parities he was told, how many bits he flipped
KeyTag             Alice     hash of her key, and which hash it is
Verdict            Bob       whether his key has the same hash
AmplificationSeed  Alice     final length, random bits of the Toeplitz matrix
Confirmation       Bob       the final key is made
Goodbye            Alice     no more blocks
=================  ========  =====================================================
"""

import struct
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errors import ChannelError

VERSION: Final = 1
MAX_BLOCK_BITS: Final = 1 << 24
"""No block of sifted key has more bits; no count in a message is greater."""

FIRST_SUBSET: Final = 128
"""Orders from this number on are random subsets, below it passes."""

_HEAD: Final = struct.Struct("<BB")
_COUNT: Final = struct.Struct("<I")


class Reason(IntEnum):
    """Why a block is refused."""

    OTHER_LENGTH = 1
    OTHER_TERMS = 2
    NO_RAW_KEY = 3
    TOO_MANY_ERRORS = 4
    TOO_SHORT = 5
    KEYS_DIFFER = 6

    @property
    def text(self) -> str:
        """The reason in words."""
        return _REASONS[self]


_REASONS: Final = {
    Reason.OTHER_LENGTH: "the two sides have sifted keys of different lengths",
    Reason.OTHER_TERMS: "the two sides run under different terms",
    Reason.NO_RAW_KEY: "one side has no raw key for this block",
    Reason.TOO_MANY_ERRORS: "too many errors in the sample",
    Reason.TOO_SHORT: "nothing secret would be left",
    Reason.KEYS_DIFFER: "the keys still differ after reconciliation",
}


@dataclass(frozen=True, eq=False)
class Message:
    """One thing said on the classical channel; fields are numbers unless a class says more."""

    kind: ClassVar[int]
    layout: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        """Return the message as it goes over the channel."""
        return _HEAD.pack(VERSION, self.kind) + self._body()

    def _body(self) -> bytes:
        return self.layout.pack(*(getattr(self, field.name) for field in fields(self)))

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the fields.

        Raises
        ------
        ChannelError
            If they are not what this message has.
        """
        if len(body) != cls.layout.size:
            raise ChannelError(f"{cls.__name__} has {cls.layout.size} bytes, not {len(body)}")
        return cls(*cls.layout.unpack(body))


def _pack_bits(bits: NDArray[np.uint8]) -> bytes:
    return _COUNT.pack(bits.size) + np.packbits(bits, bitorder="little").tobytes()


def _parse_bits(name: str, body: bytes) -> NDArray[np.uint8]:
    if len(body) < _COUNT.size:
        raise ChannelError(f"{name} breaks off before its count")
    (n_bits,) = _COUNT.unpack_from(body)
    if n_bits > 2 * MAX_BLOCK_BITS or len(body) != _COUNT.size + -(-n_bits // 8):
        raise ChannelError(f"{name} has {len(body)} bytes, which {n_bits} bits don't fill")
    packed = np.frombuffer(body, np.uint8, offset=_COUNT.size)
    bits = np.unpackbits(packed, bitorder="little")
    if bits[n_bits:].any():
        raise ChannelError(f"{name} has bits behind its end")
    return bits[:n_bits]


@dataclass(frozen=True, eq=False)
class _BitsMessage(Message):
    bits: NDArray[np.uint8]
    """(n,) ndarray, one bit per element."""

    def _body(self) -> bytes:
        return _pack_bits(self.bits)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        return cls(_parse_bits(cls.__name__, body))


@dataclass(frozen=True, eq=False)
class Offer(Message):
    """Which block comes next, and which of its bits are disclosed."""

    kind = 1
    layout = struct.Struct("<IIII32s32s")
    start_epoch: int
    n_epochs: int
    n_bits: int
    sample_bits: int
    sample_seed: bytes
    terms: bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the fields; counts are in range and fit each other."""
        offer = super().parse(body)
        if not 0 < offer.sample_bits < offer.n_bits <= MAX_BLOCK_BITS:
            raise ChannelError(f"Offer: {offer.sample_bits} sample bits of {offer.n_bits}")
        if not 0 < offer.n_epochs <= 1 << 16:
            raise ChannelError(f"Offer: a block of {offer.n_epochs} epochs")
        return offer


@dataclass(frozen=True, eq=False)
class SampleBits(_BitsMessage):
    """One side's bits of the sample, in the order of the key."""

    kind = 2


@dataclass(frozen=True, eq=False)
class Plan(Message):
    """Seed of the orders of all passes and of the random subsets."""

    kind = 3
    layout = struct.Struct("<32s")
    seed: bytes


@dataclass(frozen=True, eq=False)
class PassRequest(Message):
    """Parities of all blocks of a pass, please."""

    kind = 4
    layout = struct.Struct("<BI")
    order: int
    block_bits: int


@dataclass(frozen=True, eq=False)
class WaveRequest(Message):
    """Parities of the lower halves of these intervals, please; to be bisected on.

    Parameters
    ----------
    order
        Number of a pass, or `FIRST_SUBSET` and more for a random subset.
    intervals : (m, 2) ndarray of int64
        Starts, ascending, and ends; disjoint, each of at least two bits.
    """

    kind = 5
    order: int
    intervals: NDArray[np.int64]

    def _body(self) -> bytes:
        starts, ends = self.intervals.T
        gaps = np.diff(starts, prepend=0)
        lengths = ends - starts
        widths = [_width(gaps), _width(lengths)]
        return b"".join(
            (
                struct.pack("<BIBB", self.order, starts.size, *widths),
                gaps.astype(f"<u{widths[0]}").tobytes(),
                lengths.astype(f"<u{widths[1]}").tobytes(),
            )
        )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the intervals; they are ascending, disjoint and of two bits or more."""
        head = struct.Struct("<BIBB")
        if len(body) < head.size:
            raise ChannelError("WaveRequest breaks off in its head")
        order, count, gap_width, length_width = head.unpack_from(body)
        if not {gap_width, length_width} <= {1, 2, 4} or not 0 < count <= MAX_BLOCK_BITS:
            raise ChannelError(
                f"WaveRequest: {count} intervals of {gap_width}+{length_width} bytes"
            )
        if len(body) != head.size + count * (gap_width + length_width):
            raise ChannelError(f"WaveRequest: {len(body)} bytes do not hold {count} intervals")
        gaps = np.frombuffer(body, f"<u{gap_width}", count, head.size)
        lengths = np.frombuffer(body, f"<u{length_width}", count, head.size + count * gap_width)
        starts = np.cumsum(gaps, dtype=np.int64)
        ends = starts + lengths
        if lengths.min() < 2 or (starts[1:] < ends[:-1]).any():
            raise ChannelError("WaveRequest: intervals overlap or are too short")
        return cls(order, np.stack((starts, ends), axis=1))


def _width(values: NDArray[np.int64]) -> int:
    """Return how many bytes the greatest value needs: 1, 2 or 4."""
    greatest = int(values.max())
    return 1 if greatest < 1 << 8 else 2 if greatest < 1 << 16 else 4


@dataclass(frozen=True, eq=False)
class Branches(_BitsMessage):
    """For each interval asked for last: 1 if its lower half is the odd one."""

    kind = 6


@dataclass(frozen=True, eq=False)
class CheckRequest(Message):
    """Parities of that many random subsets, please."""

    kind = 7
    layout = struct.Struct("<B")
    n_subsets: int


@dataclass(frozen=True, eq=False)
class Parities(_BitsMessage):
    """Alice's parities, one for each asked for: all that reconciliation discloses."""

    kind = 8


@dataclass(frozen=True, eq=False)
class ReconcileDone(Message):
    """How many parities Bob was told and how many bits he flipped."""

    kind = 9
    layout = struct.Struct("<II")
    disclosed_bits: int
    corrected_bits: int


@dataclass(frozen=True, eq=False)
class KeyTag(Message):
    """Which hash function, and what Alice's key hashes to."""

    kind = 10
    layout = struct.Struct("<48s16s")
    seed: bytes
    tag: bytes


@dataclass(frozen=True, eq=False)
class Verdict(Message):
    """Whether Bob's key has the same hash."""

    kind = 11
    layout = struct.Struct("<?")
    is_equal: bool


@dataclass(frozen=True, eq=False)
class AmplificationSeed(_BitsMessage):
    """The Toeplitz matrix: ``key_bits + final_bits - 1`` random bits."""

    kind = 12


@dataclass(frozen=True, eq=False)
class Confirmation(Message):
    """Bob made a final key of that many bits."""

    kind = 13
    layout = struct.Struct("<I")
    final_bits: int


@dataclass(frozen=True, eq=False)
class Refusal(Message):
    """There will be no key from the block offered."""

    kind = 14
    layout = struct.Struct("<B")
    reason: int

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the reason; it is one of `Reason`."""
        refusal = super().parse(body)
        if refusal.reason not in list(Reason):
            raise ChannelError(f"Refusal: unknown reason {refusal.reason}")
        return refusal


@dataclass(frozen=True, eq=False)
class Goodbye(Message):
    """No more blocks."""

    kind = 15
    layout = struct.Struct("<")


MESSAGES: Final[dict[int, type[Message]]] = {
    message.kind: message
    for message in (
        *(Offer, SampleBits, Plan, PassRequest, WaveRequest, Branches, CheckRequest, Parities),
        *(ReconcileDone, KeyTag, Verdict, AmplificationSeed, Confirmation, Refusal, Goodbye),
    )
}


def unpack(data: bytes) -> Message:
    """Read a message.

    Raises
    ------
    ChannelError
        If it is of another version, of unknown kind or malformed.
    """
    if len(data) < _HEAD.size:
        raise ChannelError(f"a message of {len(data)} bytes is none")
    version, kind = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ChannelError(f"the peer speaks version {version} of the protocol, not {VERSION}")
    if kind not in MESSAGES:
        raise ChannelError(f"unknown message of kind {kind}")
    return MESSAGES[kind].parse(data[_HEAD.size :])
