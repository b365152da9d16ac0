"""challenges - a heartbeat of the peer in; accepted, challenged or rolled back out."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from kme.pairing.pair import PairEnd
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, HeartbeatOutcome
from kme.pairing.rollback import RollbackGuard
from kme.pairing.standing import StandingReader
from kme.store import rules
from kme.store.records import HeartbeatRecord

_MAX_CHALLENGES: Final = 8


class HeartbeatJudge:
    """The receiving end of heartbeats.

    A sender has one heartbeat outstanding and repeats its nonce until it was
    accepted, so what was heard last is either that nonce or the one before.
    Whatever is lost, late or doubled in between keeps it so: a message that
    fits neither comes from the past, or its sender does. The challenge tells
    these two apart, because a message from the past cannot answer it; and an
    accepted heartbeat ends all challenges, because the answer to one of them
    may by then be a message from the past as well.

    Parameters
    ----------
    end
        This end of the pair.
    guard
        Where a roll-back is declared.
    token
        Returns 32 fresh random hexadecimal digits.
    standing
        Where this end stands; both directions share what was read.
    """

    def __init__(
        self,
        end: PairEnd,
        guard: RollbackGuard,
        token: Callable[[], str],
        standing: StandingReader | None = None,
    ) -> None:
        self._end = end
        self._guard = guard
        self._standing = standing or StandingReader(end)
        self._token = token
        self.judging = asyncio.Lock()
        """Held while a heartbeat is judged."""
        self._challenges: deque[str] = deque(maxlen=_MAX_CHALLENGES)
        self._has_accepted = False

    @property
    def has_accepted(self) -> bool:
        """Whether a heartbeat of the peer was accepted since this process started."""
        return self._has_accepted

    def begin_anew(self) -> None:
        """Forget what was heard, because the peer was restored: its next heartbeat is its first."""
        self._challenges.clear()
        self._has_accepted = False
        self._standing.forget()

    async def judge(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Judge a heartbeat; one that is accepted is remembered durably before the answer."""
        async with self.judging:
            outcome, challenge = await self._outcome(heartbeat)
            if outcome is HeartbeatOutcome.ACCEPTED:
                await self._learn_settled(heartbeat.settled)
        standing = await self._standing.recent()
        return HeartbeatAnswer(outcome, challenge, standing.settled, standing.free_bytes)

    async def check_settled(self, peer_settled: int) -> None:
        """Declare a roll-back if the peer has settled what we know nothing of.

        Whatever the follower has settled was proposed durably by the leader
        before, and whatever the leader has settled was settled durably by the
        follower before. So a peer that is ahead of our highest number shows
        that we forgot something, even where no nonce does.
        """
        standing = await self._standing.recent()
        if peer_settled > standing.record.highest:
            standing = await self._standing.fresh()
        if peer_settled > standing.record.highest:
            await self._guard.declare(
                f"this KME lost what it agreed on with KME {self._end.peer}: its store was"
                " restored from an older copy, and keys stay closed until an operator acts",
                may_be_ours=True,
            )

    async def _outcome(self, heartbeat: Heartbeat) -> tuple[HeartbeatOutcome, str | None]:
        store, peer = self._end.store, self._end.peer
        nonce, acknowledged = heartbeat.nonce, heartbeat.acknowledged
        record = await store.accept_heartbeat(peer, nonce, acknowledged)
        if rules.follows(record, nonce, acknowledged):
            self._challenges.clear()
            self._has_accepted = True
            return HeartbeatOutcome.ACCEPTED, None
        if heartbeat.challenge is not None and heartbeat.challenge in self._challenges:
            self._challenges.remove(heartbeat.challenge)
            await self._declare(record, heartbeat)
            return HeartbeatOutcome.ROLLED_BACK, None
        challenge = self._token()
        self._challenges.append(challenge)
        return HeartbeatOutcome.CHALLENGED, challenge

    async def _learn_settled(self, peer_settled: int) -> None:
        await self.check_settled(peer_settled)
        standing = await self._standing.recent()
        if peer_settled <= standing.record.peer_settled:
            return  # known before, and marks never fall
        standing = await self._standing.fresh()
        number = min(peer_settled, standing.settled)
        if number > standing.record.peer_settled:
            await self._end.store.raise_peer_settled(self._end.peer, number)
            self._standing.forget()

    async def _declare(self, record: HeartbeatRecord, heartbeat: Heartbeat) -> None:
        local, peer = self._end.local, self._end.peer
        if record.heard is None:
            what = f"KME {local} has no memory of KME {peer}, which remembers it: its store is new"
        elif heartbeat.acknowledged is None:
            what = f"KME {peer} has no memory of KME {local}, which remembers it: its store is new"
        else:
            what = f"KME {peer} or KME {local} shows an older state than one that was seen"
        await self._guard.declare(
            f"{what} or was restored from an older copy, and keys stay closed until an operator"
            " acts",
            may_be_ours=record.heard is None,
        )
