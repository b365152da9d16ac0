"""rollback - that one of the two KMEs was rolled back: once seen, it stays so until a restore."""

import logging

from kme.errors import PeerUnavailableError
from kme.pairing.pair import PairEnd
from kme.store.records import Incident, IncidentKind

_logger = logging.getLogger(__name__)


class RollbackGuard:
    """Whether a roll-back of this pair was seen; then nothing is handed out any more.

    A restart of the process doesn't mend anything: the nonces still don't
    match, and the next heartbeats show the roll-back again. What does is a
    restore of the KME that was rolled back, once it is agreed with its peer.

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
        self._restore_reason: str | None = None
        self.n_lifted = 0
        """How often a restore of either KME was agreed since this process started."""

    def await_restore(self, reason: str) -> None:
        """Fail closed because this KME was restored and its peer hasn't agreed on it yet."""
        self._restore_reason = reason

    def end_restore(self) -> None:
        """Open again, if this KME's restore was awaited, because it is agreed."""
        if self._restore_reason is not None:
            self._restore_reason = None
            self.lift()

    def lift(self) -> None:
        """Forget the roll-back, because it is mended by a restore that both agreed on."""
        self._reason = None
        self._may_be_ours = self._is_recorded = False
        self.n_lifted += 1

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
            If one was, of either KME, or a restore isn't agreed yet.
        """
        reason = self._restore_reason or self._reason
        if reason is not None:
            raise PeerUnavailableError(reason, peer=self._end.peer)

    def require_ours_sound(self) -> None:
        """Return if nothing speaks against this KME's own store.

        Raises
        ------
        PeerUnavailableError
            If this KME may be the one that was rolled back, or was restored.
        """
        if self._may_be_ours or self._restore_reason is not None:
            self.require_none()
