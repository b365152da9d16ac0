"""incidents - alarms, kept for the operator."""

from kme.ids import KmeId
from kme.store.records import Incident, IncidentKind
from kme.store.sqlite.transaction import Transaction


def record(tx: Transaction, incident: Incident) -> None:
    """Keep an alarm."""
    tx.run(
        "INSERT INTO incidents (peer, kind, unix_s, details) VALUES (?, ?, ?, ?)",
        incident.peer,
        incident.kind,
        incident.unix_s,
        # An alarm is kept whatever its text holds.
        incident.details.encode("utf-8", "backslashreplace").decode("utf-8"),
    )


def latest(tx: Transaction, limit: int) -> list[Incident]:
    """Return the latest alarms, newest first."""
    found = tx.rows(
        "SELECT peer, kind, unix_s, details FROM incidents ORDER BY id DESC LIMIT ?", max(limit, 0)
    )
    return [
        Incident(KmeId(peer), IncidentKind(kind), unix_s, details)
        for peer, kind, unix_s, details in found
    ]
