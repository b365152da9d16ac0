"""restore - this KME was restored from an older copy: its peer agrees, then it goes on.

Two questions. The first one gets a fresh challenge, which the second one
carries and uses up: whatever comes late or twice is refused. The peer writes
what it accepts before it answers, and the restored KME what it gives up after
the answer; a crash anywhere in between is mended by asking again from the
start, and the nonce of the last agreement counts at both ends.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from kme.errors import PeerUnavailableError
from kme.ids import Epoch, SourceId
from kme.pairing.pair import PairEnd
from kme.pairing.ports import PeerLink, RestoreConsent, RestoreTerms
from kme.pairing.rollback import RollbackGuard
from kme.pairing.standing import settled_number
from kme.store.records import Incident, IncidentKind
from kme.store.restore import RestoreAgreement

_logger = logging.getLogger(__name__)

_GIVEN_UP: Final = "all keys up to block {number} that were not drawn, and what waited, were burnt"


class OwnRestore:
    """That this KME's own store was restored, as one peer is concerned.

    A store is marked while no process uses it, so once nothing is left to be
    agreed it stays so for the life of this process.

    Parameters
    ----------
    end
        This end of the pair.
    link
        The way to the peer.
    guard
        Closed until the restore is agreed.
    token
        Returns 32 fresh random hexadecimal digits.
    """

    def __init__(
        self, end: PairEnd, link: PeerLink, guard: RollbackGuard, token: Callable[[], str]
    ) -> None:
        self._end = end
        self._link = link
        self._guard = guard
        self._token = token
        self._is_agreed = False
        self.is_agreeing = False
        """Whether the peer may be accepting it just now; its own restore has to wait then."""

    async def incarnation(self) -> str | None:
        """Return which restore isn't agreed with the peer yet; None if none.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't say it.
        """
        if self._is_agreed:
            return None
        incarnation = await self._end.store.restoring(self._end.peer)
        if incarnation is None:
            self._is_agreed = True
            self._guard.end_restore()  # the agreement may have been written without an answer
        return incarnation

    async def require_agreed(self) -> None:
        """Return if nothing has to be agreed with the peer.

        Raises
        ------
        PeerUnavailableError
            If this KME was restored and that isn't agreed yet.
        StoreUnavailableError
            If the store doesn't say it.
        """
        if await self.incarnation() is not None:
            raise PeerUnavailableError(self._reason, peer=self._end.peer)

    async def agree(self) -> bool:
        """Agree with the peer on a restore, if there was one; return whether there was.

        Raises
        ------
        PeerUnavailableError
            If the peer doesn't accept it now: try again.
        StoreUnavailableError
            If our own store takes no write: try again.
        """
        incarnation = await self.incarnation()
        if incarnation is None:
            return False
        # Here only: who merely looks may be told what held before it was agreed.
        self._guard.await_restore(self._reason)
        asked = await self._link.ask_restore(incarnation)
        if asked.is_restoring and not self._end.is_leader:
            # Else each could take the other's nonce for one that it gives up the next moment.
            raise PeerUnavailableError(
                f"KME {self._end.peer} was restored as well: it agrees on its own restore first"
            )
        self.is_agreeing = True
        try:
            await self._agree(incarnation, asked.challenge)
        finally:
            self.is_agreeing = False
        return True

    async def _agree(self, incarnation: str, challenge: str) -> None:
        end, nonce = self._end, self._token()
        record = await end.store.pairing(end.peer)
        consent = await self._link.agree_restore(
            RestoreTerms(incarnation, challenge, nonce, record.highest, settled_number(record))
        )
        highest = max(record.highest, consent.highest)
        details = f"this KME was restored: {_GIVEN_UP.format(number=highest)}"
        # First: whoever dies after the agreement has nothing to agree on any more.
        await end.store.record_incident(
            Incident(end.peer, IncidentKind.RESTORED, end.clock.now_s(), details)
        )
        await end.store.agree_restore(
            end.peer,
            RestoreAgreement(
                incarnation, nonce, consent.heard, highest, await self._epochs(consent)
            ),
        )
        self._is_agreed = True
        self._guard.end_restore()
        _logger.warning("restore agreed", extra={"peer": end.peer, "details": details})

    async def _epochs(self, consent: RestoreConsent) -> Mapping[SourceId, Epoch]:
        """Return up to which epoch final keys may have come in since, by source."""
        end = self._end
        ours = await end.store.highest_epochs(end.peer)
        now = Epoch.at_time(end.clock.now_s())
        return {
            source: max(now, ours.get(source, now), consent.epochs.get(source, now))
            for source in {*end.config.sources, *ours, *consent.epochs}
        }

    @property
    def _reason(self) -> str:
        return (
            f"this KME was restored from an older copy, which is being agreed with KME"
            f" {self._end.peer}: try again later, and see whether both can reach each other"
        )
