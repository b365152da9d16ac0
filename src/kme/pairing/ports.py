"""ports - what two KMEs say to each other, and what pairing tells the supply."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from kme.ids import KmeId
from kme.store.records import FinalKeyRef, Proposal, Verdict


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
    """

    nonce: str
    acknowledged: str | None
    challenge: str | None
    settled: int
    free_bytes: int


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
