"""pair - one KME's end of one pair: who the two are, what is agreed on, where it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kme.clock import Clock
from kme.errors import SettingsError
from kme.ids import KmeId, SourceId
from kme.store.ports import Store
from kme.store.records import MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, SourceClass

MAX_LIFETIME_S: Final = 1 << 32
"""No key lives longer, which is 136 years."""

MAX_ENTRIES: Final = 1024
"""A block is made of at most so many final keys, and a question names no more of them."""


DEFAULT_STOCK_BYTES: Final = 256 * 1024 * 1024
"""Eight million keys of 256 bits."""


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What a site says about one peer.

    Parameters
    ----------
    peer
        The other KME.
    sources
        What makes key for this pair, and of which class it is; the same at
        both ends.
    heartbeat_interval_s
        How often to send a heartbeat.
    lease_s
        A peer that accepted no heartbeat for so long counts as gone.
    gather_s
        How long final keys wait for more of them before they become a block.
    poll_s
        How often to look for new final keys.
    max_backoff_s
        The longest pause between two tries to reach the peer.
    block_bytes
        Blocks are closed before they would get longer; one that a single final
        key fills may be. Small ones reach both owners sooner.
    lifetime_s
        How long keys of a block may be drawn; the leader's word counts.
    max_stock_bytes
        While both KMEs have so much in stock, the leader forms no more blocks.
    """

    peer: KmeId
    sources: Mapping[SourceId, SourceClass]
    heartbeat_interval_s: float = 1.0
    lease_s: float = 5.0
    gather_s: float = 3.0
    poll_s: float = 0.5
    max_backoff_s: float = 2.0
    block_bytes: int = MAX_BLOCK_BYTES
    lifetime_s: int = 86_400
    max_stock_bytes: int = DEFAULT_STOCK_BYTES

    def __post_init__(self) -> None:
        if min(self.heartbeat_interval_s, self.poll_s) <= 0 or self.gather_s < 0:
            raise SettingsError(f"peer {self.peer}: intervals are above 0 s")
        if not MIN_BLOCK_BYTES <= self.block_bytes <= MAX_BLOCK_BYTES:
            raise SettingsError(
                f"peer {self.peer}: blocks have {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES} bytes"
            )
        if self.max_stock_bytes < self.block_bytes:
            raise SettingsError(f"peer {self.peer}: the stock has room for one block at least")
        if not 1 <= self.lifetime_s <= MAX_LIFETIME_S:
            raise SettingsError(f"peer {self.peer}: keys live 1 to {MAX_LIFETIME_S} s")
        if self.lease_s <= self.heartbeat_interval_s or self.max_backoff_s < self.poll_s:
            raise SettingsError(
                f"peer {self.peer}: the lease is longer than the interval of heartbeats,"
                " the longest back-off at least the polling interval"
            )


@dataclass(frozen=True, slots=True)
class PairEnd:
    """One KME's end of one pair.

    Parameters
    ----------
    local
        The KME at this end.
    config
        What it knows about the other one.
    store
        What it keeps.
    clock
        Its time.
    """

    local: KmeId
    config: PeerConfig
    store: Store
    clock: Clock

    def __post_init__(self) -> None:
        if self.local == self.config.peer:
            raise SettingsError(f"KME {self.local} cannot be its own peer")

    @property
    def peer(self) -> KmeId:
        """The KME at the other end."""
        return self.config.peer

    @property
    def ids(self) -> tuple[KmeId, KmeId]:
        """Both KMEs, the smaller id first."""
        return (min(self.local, self.peer), max(self.local, self.peer))

    @property
    def leader(self) -> KmeId:
        """The KME that proposes; the other one decides."""
        return self.ids[0]

    @property
    def is_leader(self) -> bool:
        """Whether this end proposes."""
        return self.local == self.leader
