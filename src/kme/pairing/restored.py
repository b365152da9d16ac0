"""restored - a peer that was restored asks; what it must give up, and nonces to go on from, out."""

import logging
from collections.abc import Callable

from kme.errors import PeerUnavailableError
from kme.pairing.heartbeat import Heartbeats
from kme.pairing.pair import PairEnd
from kme.pairing.ports import RestoreChallenge, RestoreConsent, RestoreTerms
from kme.store.records import Incident, IncidentKind, PairingRecord

_logger = logging.getLogger(__name__)


class PeerRestore:
    """The other side of `kme.pairing.restore.OwnRestore`.

    Nothing of it is remembered but what it changes: whoever asks again is told
    what holds then. One challenge is open at a time, in memory only.

    Parameters
    ----------
    end
        This end of the pair.
    heartbeats
        The heartbeats with that peer, which begin anew.
    token
        Returns 32 fresh random hexadecimal digits.
    """

    def __init__(self, end: PairEnd, heartbeats: Heartbeats, token: Callable[[], str]) -> None:
        self._end = end
        self._heartbeats = heartbeats
        self._token = token
        self._open: tuple[str, str] | None = None
        self._alarmed: str | None = None

    async def challenge(self, incarnation: str) -> RestoreChallenge:
        """Return what the second question must carry; an earlier challenge counts no more."""
        is_restoring = await self._heartbeats.own_restore.incarnation() is not None
        self._open = incarnation, self._token()
        return RestoreChallenge(self._open[1], is_restoring)

    async def accept(self, terms: RestoreTerms) -> RestoreConsent:
        """Accept what the peer gives up, durably, and say what it must give up besides.

        The caller sees to it that nothing is proposed, judged or settled meanwhile.

        Raises
        ------
        PeerUnavailableError
            If the challenge isn't the open one, our own restore is being agreed
            just now, or this KME itself forgot what the peer remembers.
        StoreUnavailableError
            If our own store takes no write.
        """
        end = self._end
        opened, self._open = self._open, None
        if opened != (terms.incarnation, terms.challenge):
            raise PeerUnavailableError("that challenge is not open any more: ask again")
        if self._heartbeats.own_restore.is_agreeing:
            raise PeerUnavailableError(f"KME {end.local} agrees on its own restore: ask again")
        record = await end.store.pairing(end.peer)
        await self._check_our_memory(record, terms)
        # The restored KME may have proposed one number more, which never came here: it must not
        # come later, when that number has another content.
        highest = max(record.highest, terms.highest) + 1
        nonces = await end.store.accept_restore(end.peer, terms.nonce, highest)
        self._heartbeats.begin_anew()
        record = await end.store.pairing(end.peer)
        epochs = await end.store.highest_epochs(end.peer)
        await self._alarm_once(terms.incarnation, record.highest)
        return RestoreConsent(record.highest, nonces.pending or nonces.acknowledged, epochs)

    async def _check_our_memory(self, record: PairingRecord, terms: RestoreTerms) -> None:
        """Refuse if our own store is older than the restored one, and isn't marked so.

        What was settled there was proposed or judged here before, so somebody
        who restored the other KME should have restored this one.
        """
        if terms.settled <= record.highest:
            return
        if await self._heartbeats.own_restore.incarnation() is None:
            reason = (
                f"KME {self._end.local} itself lost what it agreed on with KME {self._end.peer}:"
                " run the restore command in place there, too"
            )
            await self._heartbeats.guard.declare(reason, may_be_ours=True)
            raise PeerUnavailableError(reason)

    async def _alarm_once(self, incarnation: str, number: int) -> None:
        if self._alarmed == incarnation:
            return
        end = self._end
        details = (
            f"KME {end.peer} was restored from an older copy: nothing is allocated from blocks up"
            f" to {number} any more, and what waited was burnt"
        )
        _logger.warning("restore accepted", extra={"peer": end.peer, "details": details})
        await end.store.record_incident(
            Incident(end.peer, IncidentKind.RESTORED, end.clock.now_s(), details)
        )
        self._alarmed = incarnation
