"""rollback - that one of the two KMEs was rolled back: seen once, it stays so until restart."""

import logging

from kme.errors import PeerUnavailableError
from kme.pairing.pair import PairEnd
from kme.store.records import Incident, IncidentKind

_logger = logging.getLogger(__name__)


class RollbackGuard:
    """Whether a roll-back of this pair was seen; then nothing is handed out any more.

    A restart of the process doesn't mend anything: the nonces still don't
    match, and the next heartbeats show the roll-back again.

    Parameters
    ----------
    end
        This end of the pair.
    """

    def __init__(self, end: PairEnd) -> None:
        self._end = end
        self._reason: str | None = None
        self._may_be_ours = False
        self._is_recorded = False

    async def declare(self, reason: str, *, may_be_ours: bool) -> None:
        """Fail closed, and raise the alarm once.

        Parameters
        ----------
        reason
            What was seen, and what the operator can do.
        may_be_ours
            This KME's own store may be the older one: then not even keys that
            were promised are handed out, for they may have been before.
        """
        self._may_be_ours = self._may_be_ours or may_be_ours
        if self._reason is None:
            self._reason = reason
            _logger.error("roll-back seen", extra={"peer": self._end.peer, "reason": reason})
        if not self._is_recorded:
            end = self._end
            await end.store.record_incident(
                Incident(end.peer, IncidentKind.ROLLED_BACK_PEER, end.clock.now_s(), self._reason)
            )
            self._is_recorded = True

    def require_none(self) -> None:
        """Return if no roll-back was seen.

        Raises
        ------
        PeerUnavailableError
            If one was, of either KME.
        """
        if self._reason is not None:
            raise PeerUnavailableError(self._reason, peer=self._end.peer)

    def require_ours_sound(self) -> None:
        """Return if nothing speaks against this KME's own store.

        Raises
        ------
        PeerUnavailableError
            If this KME may be the one that was rolled back.
        """
        if self._may_be_ours:
            self.require_none()
