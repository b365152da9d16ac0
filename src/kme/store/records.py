"""records - what is stored: final keys, proposals, key blocks, claims, ranges, heartbeats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kme.errors import InputError
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.units import GRANULE_BYTES, granules_of_bytes

MAX_BLOCK_BYTES: Final = 64 * 1024
"""A key block holds at most so many bytes."""

PART_BYTES: Final = 16 * 1024
"""A longer final key enters the inbox in parts of this size, so that both KMEs soon own some."""

MIN_BLOCK_BYTES: Final = 512
"""Final keys are gathered until a block has at least so many bytes."""

RESERVED_BYTES: Final = 64
"""The first bytes of each block are its own keys and are never handed out."""

RESERVED_GRANULES: Final = RESERVED_BYTES // GRANULE_BYTES


class SourceClass(StrEnum):
    """How key came to be; status tells whether it is quantum key at all."""

    QKD = "qkd"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, order=True)
class FinalKeyRef:
    """Which final key: its source, its first universal epoch, and the part if it was split."""

    source: SourceId
    epoch: Epoch
    part: int = 0


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """A final key in the inbox, without its bytes."""

    ref: FinalKeyRef
    n_bytes: int


@dataclass(frozen=True, slots=True)
class FinalKey:
    """A final key in the inbox, waiting to be paired."""

    ref: FinalKeyRef
    key: Secret


@dataclass(frozen=True, slots=True)
class Proposal:
    """The leader's word on the next key block (architecture: pairing, rule 2).

    Parameters
    ----------
    number
        The block's number; numbers of a pair only grow, from 1.
    owner
        The KME that alone allocates from the block.
    entries
        The final keys it is made of, in order, all of one source.
    lifetime_s
        How long keys of the block may be drawn after pairing, in seconds.
    source_class
        How the key came to be.
    tag
        16 bytes: Poly1305 under the block's own first 32 bytes.
    """

    number: int
    owner: KmeId
    entries: tuple[FinalKeyRef, ...]
    lifetime_s: int
    source_class: SourceClass
    tag: bytes

    def __post_init__(self) -> None:
        if len({entry.source for entry in self.entries}) != 1:
            raise InputError("a proposal lists final keys of exactly one source")
        if len(set(self.entries)) != len(self.entries):
            raise InputError("a proposal lists a final key twice")
        if self.number < 1 or self.lifetime_s < 1 or len(self.tag) != 16:
            raise InputError("a proposal's number, lifetime or tag is out of range")

    @property
    def source(self) -> SourceId:
        """The one source of all entries."""
        return self.entries[0].source


class Verdict(StrEnum):
    """What the follower finds about a proposal."""

    EQUAL = "equal"
    UNEQUAL = "unequal"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Settlement:
    """A proposal and the verdict on it; written once, repeated for ever."""

    proposal: Proposal
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PairingRecord:
    """Where pairing with one peer stands; durable.

    Parameters
    ----------
    highest
        The highest number that was ever proposed (leader) or judged
        (follower); 0 before the first.
    open_proposal
        Leader only: what was proposed and has no verdict here yet.
    last
        The last settlement.
    peer_settled
        The peer has settled all numbers up to this one durably.
    floor_allocate
        No allocation from blocks at or below this number.
    floor_draw
        No draw from blocks at or below this number.
    """

    highest: int = 0
    open_proposal: Proposal | None = None
    last: Settlement | None = None
    peer_settled: int = 0
    floor_allocate: int = 0
    floor_draw: int = 0


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """What keys are cut from: the same bytes at both KMEs."""

    number: int
    owner: KmeId
    source: SourceId
    source_class: SourceClass
    lifetime_s: int
    key: Secret = field(repr=False)

    @property
    def n_bytes(self) -> int:
        """How many bytes the block has, its reserved ones included."""
        return len(self.key)

    @property
    def n_granules(self) -> int:
        """How many whole granules the block has; a rest of under 8 bytes is never used."""
        return len(self.key) // GRANULE_BYTES


@dataclass(frozen=True, slots=True)
class GranuleRange:
    """Which bytes of which block a key is, in granules of 8 bytes: ``start <= g < stop``."""

    block_number: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not RESERVED_GRANULES <= self.start < self.stop:
            raise InputError("a range of granules is empty or touches a block's reserved bytes")

    @property
    def n_granules(self) -> int:
        """How many granules the range has."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Claim:
    """A range that one worker reserved durably, before it uses any of it.

    Parameters
    ----------
    nonce
        32 hexadecimal digits, fresh for each claim.
    worker
        Who claimed: a name fresh for each start of a process.
    reserved
        The range.
    """

    nonce: str
    worker: str
    reserved: GranuleRange


@dataclass(frozen=True, slots=True)
class Stock:
    """What this KME may still allocate for one pair: how many blocks have how much room.

    Parameters
    ----------
    blocks_by_room
        From room in granules (in one piece, at the block's end) to the number
        of blocks with just that room.
    """

    blocks_by_room: Mapping[int, int]

    @property
    def n_bytes(self) -> int:
        """All bytes that may still be allocated."""
        return GRANULE_BYTES * sum(room * n for room, n in self.blocks_by_room.items())

    @property
    def max_key_bytes(self) -> int:
        """The largest key that fits anywhere."""
        return GRANULE_BYTES * max(self.blocks_by_room, default=0)

    def count_of(self, n_bytes: int) -> int:
        """Return how many keys of `n_bytes` bytes can be cut."""
        n_granules = granules_of_bytes(n_bytes)
        return sum(room // n_granules * n for room, n in self.blocks_by_room.items())


MAX_OPEN_FROM: Final = 32
"""A frontier names at most so many blocks that are not used up yet."""

MAX_EXPIRIES: Final = 128
"""So many expiries of a pair may wait; a lifetime is divided in half as many."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a KME will never again allocate from, of the blocks that it owns in one pair.

    A place, block and granule, is *behind* the frontier if its block number is
    below `number`, and the granule lies before where `open_from` says that its
    block may still be allocated from. Nothing that is behind ever comes to lie
    before it again, so a frontier that is late is true as well.

    Parameters
    ----------
    number
        Of blocks with this number and above nothing is behind.
    open_from
        From block number, below `number`, to the first granule that may still
        be allocated: one that was never claimed, or is claimed now. Blocks that
        are not named are behind as a whole.
    """

    number: int = 0
    open_from: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.number < 0 or len(self.open_from) > MAX_OPEN_FROM:
            raise InputError("a frontier's number is out of range, or it names too many blocks")
        for number, granule in self.open_from.items():
            if not 1 <= number < self.number or granule < RESERVED_GRANULES:
                raise InputError("a frontier names a block or granule that cannot be behind it")

    def is_behind(self, number: int, granule: int) -> bool:
        """Return whether a granule of a block is never allocated any more."""
        return number < self.number and granule < self.open_from.get(number, granule + 1)


@dataclass(frozen=True, slots=True)
class Expiry:
    """What was behind the peer's frontier at one moment, and when that expires.

    Parameters
    ----------
    frontier
        The peer's.
    due_unix_s
        Keys behind it may be drawn until then, by this KME's clock.
    """

    frontier: Frontier
    due_unix_s: float


@dataclass(frozen=True, slots=True)
class HeartbeatRecord:
    """The nonces of the heartbeats with one peer; durable (architecture: rule 12).

    Parameters
    ----------
    pending
        Nonce of our heartbeat that is outstanding, written before it is sent.
    acknowledged
        Nonce of our last heartbeat that the peer accepted.
    heard
        Nonce of the peer's last heartbeat that we accepted.
    """

    pending: str | None = None
    acknowledged: str | None = None
    heard: str | None = None


class IncidentKind(StrEnum):
    """What raises an alarm."""

    UNEQUAL_BLOCK = "unequal_block"
    OVERLAPPING_DRAW = "overlapping_draw"
    ROLLED_BACK_PEER = "rolled_back_peer"
    BROKEN_PROPOSAL = "broken_proposal"
    CLEARED = "cleared"
    DISPUTED_SAE = "disputed_sae"
    RESTORED = "restored"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Incident:
    """An alarm, kept for the operator; metadata only, never bytes."""

    peer: KmeId
    kind: IncidentKind
    unix_s: float
    details: str
