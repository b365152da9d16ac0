"""ports - what two KMEs say to each other, and what pairing tells the supply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kme.ids import Epoch, KmeId, SourceId
from kme.registry.records import SaeList
from kme.store.records import FinalKeyRef, Frontier, Proposal, Verdict


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I am alive, my store took a write just now, and this is where I stand.

    Parameters
    ----------
    nonce
        Fresh and durable before it is sent; repeated until it is accepted.
    acknowledged
        Nonce of the sender's last heartbeat that was accepted; None before
        the first.
    challenge
        The receiver's challenge that this heartbeat answers, after the
        sender read its record freshly from its store.
    settled
        All numbers up to this one are settled durably at the sender.
    free_bytes
        What the sender may still allocate for this pair.
    frontier
        What the sender will never allocate from any more, of its own blocks.
    """

    nonce: str
    acknowledged: str | None
    challenge: str | None
    settled: int
    free_bytes: int
    frontier: Frontier


class HeartbeatOutcome(StrEnum):
    """What the receiver makes of a heartbeat."""

    ACCEPTED = "accepted"
    CHALLENGED = "challenged"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """The receiver's answer, and where it stands itself.

    Parameters
    ----------
    outcome
        Accepted, challenged, or proof of a roll-back.
    challenge
        What a challenged sender must repeat; None otherwise.
    settled, free_bytes
        As in `Heartbeat`, of the receiver.
    """

    outcome: HeartbeatOutcome
    challenge: str | None
    settled: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class RestoreChallenge:
    """What a restored KME is told first.

    Parameters
    ----------
    challenge
        Fresh; what is agreed must carry it, once.
    is_restoring
        Whether the KME that answers was restored as well and has not agreed
        on that yet.
    """

    challenge: str
    is_restoring: bool


@dataclass(frozen=True, slots=True)
class RestoreTerms:
    """What a restored KME offers its peer.

    Parameters
    ----------
    incarnation
        Which restore it is.
    challenge
        The challenge that it was given last.
    nonce
        Fresh; the peer is to take it for the last heartbeat that it heard.
    highest
        The highest block number that it knows of.
    settled
        All numbers up to this one are settled durably there.
    """

    incarnation: str
    challenge: str
    nonce: str
    highest: int
    settled: int


@dataclass(frozen=True, slots=True)
class RestoreConsent:
    """What the peer of a restored KME has accepted durably.

    Parameters
    ----------
    highest
        The highest block number that either side has seen: the restored KME
        gives up all blocks up to it.
    heard
        What it is to take for the peer's last heartbeat; None if there was none.
    epochs
        The highest epoch that came in at the peer, of each source.
    """

    highest: int
    heard: str | None
    epochs: Mapping[SourceId, Epoch]


class PeerLink(Protocol):
    """The way to one peer; each call has a time-out.

    Every method raises `PeerUnavailableError` if no proper answer came, and
    `PairingError` if the peer says that a rule was broken.
    """

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Send a heartbeat."""
        ...

    async def held(self, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        """Ask which of these final keys the peer has in its inbox."""
        ...

    async def propose(self, proposal: Proposal) -> Verdict:
        """Send a proposal; the same one may be sent again and has the same verdict."""
        ...

    async def ask_restore(self, incarnation: str) -> RestoreChallenge:
        """Say that this KME was restored, and ask for a challenge."""
        ...

    async def agree_restore(self, terms: RestoreTerms) -> RestoreConsent:
        """Have the peer accept the restore."""
        ...


class PeerHandler(Protocol):
    """What a KME does with a peer's messages; the other end of `PeerLink`."""

    async def on_heartbeat(self, peer: KmeId, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Judge a heartbeat."""
        ...

    async def on_held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        """Say which of these final keys are in the inbox."""
        ...

    async def on_propose(self, peer: KmeId, proposal: Proposal) -> Verdict:
        """Decide about a proposal, or repeat the verdict."""
        ...

    async def on_ask_restore(self, peer: KmeId, incarnation: str) -> RestoreChallenge:
        """Give a restored peer a challenge."""
        ...

    async def on_agree_restore(self, peer: KmeId, terms: RestoreTerms) -> RestoreConsent:
        """Accept a peer's restore."""
        ...


@dataclass(frozen=True, slots=True)
class PeerLiveness:
    """How a peer is doing, for the other processes of this KME on the same host.

    Parameters
    ----------
    begun_s
        When the last heartbeat that it accepted began, in monotonic seconds;
        None before the first.
    alive_until_s
        Until when it counts as alive if no other heartbeat is accepted, in
        monotonic seconds; None before the first.
    not_alive
        Why it doesn't count as alive; None if it does.
    unsound
        What speaks against this KME's own store; None if nothing does.
    """

    begun_s: float | None
    alive_until_s: float | None
    not_alive: str | None
    unsound: str | None


@dataclass(frozen=True, slots=True)
class PairStock:
    """What one KME has in stock for one pair.

    Parameters
    ----------
    highest
        The highest number of a block that it has seen proposed.
    settled
        The number of the last block that it has settled.
    n_blocks
        In how many of its own blocks it has room.
    n_bytes
        How many bytes it may still allocate.
    n_keys
        How many keys of the size that was asked about fit in there.
    """

    highest: int
    settled: int
    n_blocks: int
    n_bytes: int
    n_keys: int


@dataclass(frozen=True, slots=True)
class BlockTag:
    """A tag that says which bytes one KME has in a block, and nothing about them."""

    number: int
    tag: bytes


class Comparison(StrEnum):
    """What a KME finds about the other one's tag of a block."""

    EQUAL = "equal"
    UNEQUAL = "unequal"
    ABSENT = "absent"


class OperatorLink(Protocol):
    """The way to one peer for what operators ask of a pair; each call has a time-out.

    Every method raises `PeerUnavailableError` if no proper answer came.
    """

    async def tell_saes(self, told: SaeList) -> None:
        """Tell which SAEs live at this KME."""
        ...

    async def stock(self, key_bytes: int) -> PairStock:
        """Ask what the peer may allocate, counted in keys of so many bytes."""
        ...

    async def compare(self, tags: Sequence[BlockTag]) -> list[Comparison]:
        """Ask which blocks have the same bytes there; one answer for each tag, in order."""
        ...

    async def clear(self, highest: int) -> int:
        """Have the peer drop all keys of the pair.

        Parameters
        ----------
        highest
            The highest block number that this KME has seen.

        Returns
        -------
        int
            Up to which number the peer dropped blocks: at least `highest`.
        """
        ...


class OperatorHandler(Protocol):
    """What a KME does with what a peer's operator asks; the other end of `OperatorLink`."""

    async def on_saes(self, peer: KmeId, told: SaeList) -> None:
        """Take note of which SAEs live at the peer."""
        ...

    async def on_stock(self, peer: KmeId, key_bytes: int) -> PairStock:
        """Say what this KME may allocate."""
        ...

    async def on_compare(self, peer: KmeId, tags: Sequence[BlockTag]) -> list[Comparison]:
        """Say which blocks have the same bytes here."""
        ...

    async def on_clear(self, peer: KmeId, highest: int) -> int:
        """Drop all keys of the pair, and say up to which block number."""
        ...


class Liveness(Protocol):
    """What the supply must know about a peer before it hands out a key."""

    def require_alive(self, peer: KmeId) -> None:
        """Return if the peer was heard within its lease.

        Raises
        ------
        PeerUnavailableError
            If it was not, or one of the two was rolled back.
        """
        ...

    def require_heard_once(self, peer: KmeId) -> None:
        """Return if one heartbeat was accepted since this process started.

        Raises
        ------
        PeerUnavailableError
            If none was: an older state could be drawn from again.
        """
        ...

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        """Return after a heartbeat that begins after this call was accepted.

        Raises
        ------
        PeerUnavailableError
            If none was accepted within the lease.
        """
        ...
