"""notes - heartbeats and alarms, each kind one small document."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from kme.ids import KmeId
from kme.store import restore, rules
from kme.store.records import HeartbeatRecord, Incident, IncidentKind
from kme.store.restore import RestoreAgreement

MAX_INCIDENTS: Final = 256
"""So many of the latest alarms are kept."""

_MAX_DETAILS: Final = 2000


@dataclass(slots=True)
class HeartbeatState:
    """What a pair's heartbeat document says.

    Parameters
    ----------
    record
        The nonces.
    n_begun
        Counts heartbeats that were begun, so that each of them is a write,
        also one with a nonce that was written before.
    agreed_incarnation
        The last restore of this KME that was agreed with the peer.
    """

    record: HeartbeatRecord = field(default_factory=HeartbeatRecord)
    n_begun: int = 0
    agreed_incarnation: str | None = None

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            HeartbeatRecord(data.get("pending"), data.get("acknowledged"), data.get("heard")),
            int(data.get("begun", 0)),
            data.get("agreed"),
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        record = self.record
        return {
            "pending": record.pending,
            "acknowledged": record.acknowledged,
            "heard": record.heard,
            "begun": self.n_begun,
            "agreed": self.agreed_incarnation,
        }

    def begin(self, nonce: str, accepted: str | None) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent."""
        self.record = rules.begun(self.record, nonce, accepted)
        self.n_begun += 1
        return self.record

    def accept(self, nonce: str, acknowledged: str | None) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        before = self.record
        self.record = rules.heard(before, nonce, acknowledged)
        return before

    def agree_restore(self, agreement: RestoreAgreement) -> None:
        """Go on from the nonces agreed on, if they aren't in use already."""
        if self.agreed_incarnation != agreement.incarnation:
            self.record = restore.heartbeat_agreed(agreement)
            self.agreed_incarnation = agreement.incarnation

    def accept_restore(self, nonce: str) -> HeartbeatRecord:
        """Take this nonce for the last heartbeat heard."""
        self.record = restore.heartbeat_accepted(self.record, nonce)
        return self.record


@dataclass(slots=True)
class RestoreState:
    """What the document about restores says: with which one the store was marked last."""

    incarnation: str | None = None

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(data.get("incarnation"))

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {"incarnation": self.incarnation}

    def mark(self, incarnation: str) -> None:
        """Note that the store was restored."""
        self.incarnation = incarnation


@dataclass(slots=True)
class IncidentState:
    """What the document of alarms says: the latest ones, the newest last."""

    alarms: list[Incident] = field(default_factory=list)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            [
                Incident(KmeId(peer), IncidentKind(kind), float(unix_s), details)
                for peer, kind, unix_s, details in data.get("alarms", [])
            ]
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "alarms": [[one.peer, one.kind.value, one.unix_s, one.details] for one in self.alarms]
        }

    def record(self, incident: Incident) -> None:
        """Keep an alarm, whatever its text holds."""
        details = incident.details.encode("utf-8", "backslashreplace").decode("utf-8")
        self.alarms = [*self.alarms, replace(incident, details=details[:_MAX_DETAILS])]
        del self.alarms[:-MAX_INCIDENTS]

    def latest(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        return self.alarms[::-1][: max(limit, 0)]
