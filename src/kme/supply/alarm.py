"""alarm - part of a key was asked for under another id: an alarm for the operator, out."""

import logging

from kme.errors import OverlapError, UnavailableError
from kme.ids import KmeId
from kme.store.ports import IncidentStore
from kme.store.records import Incident, IncidentKind

_logger = logging.getLogger(__name__)


async def alarm_of_overlap(
    store: IncidentStore, peer: KmeId, unix_s: float, who: str, overlap: OverlapError
) -> None:
    """Keep an alarm; the refusal that goes with it stands even if that fails.

    Parameters
    ----------
    store
        Where alarms are kept.
    peer
        The pair's other KME.
    unix_s
        When it happened, in seconds since 1970.
    who
        Who asked.
    overlap
        What was found.
    """
    facts = ", ".join(f"{name}={value}" for name, value in overlap.diagnostics().items())
    incident = Incident(
        peer=peer,
        kind=IncidentKind.OVERLAPPING_DRAW,
        unix_s=unix_s,
        details=f"{who}, {facts}",
    )
    _logger.error("overlapping draw", extra={"details": incident.details})
    try:
        await store.record_incident(incident)
    except UnavailableError as error:
        _logger.error("alarm not kept", extra={"error": str(error)})
