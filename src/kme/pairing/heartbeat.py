"""heartbeat - nonces go to the peer, a lease comes back: is it alive, is nobody rolled back."""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from kme.errors import KmeError, PeerUnavailableError
from kme.pairing.challenges import HeartbeatJudge
from kme.pairing.pair import PairEnd
from kme.pairing.ports import (
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    PeerLink,
    PeerLiveness,
)
from kme.pairing.restore import OwnRestore
from kme.pairing.rollback import RollbackGuard
from kme.pairing.standing import StandingReader

_logger = logging.getLogger(__name__)

_TRIES_ON_DEMAND: Final = 2

random_token: Callable[[], str] = partial(secrets.token_hex, 16)
"""Return 32 fresh random hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """What the peer answered to the last heartbeat that it accepted.

    Parameters
    ----------
    told_settled
        Up to this number the peer knew our blocks to be durable then.
    free_bytes
        What it could allocate then.
    """

    told_settled: int
    free_bytes: int


class Heartbeats:
    """Heartbeats with one peer, in both directions (architecture: rules 7 and 12).

    One heartbeat is outstanding at a time, for only `run` sends any; so just
    one process per KME may run it.

    Parameters
    ----------
    end
        This end of the pair.
    link
        The way to the peer.
    token
        Returns 32 fresh random hexadecimal digits.
    """

    def __init__(
        self, end: PairEnd, link: PeerLink, token: Callable[[], str] = random_token
    ) -> None:
        self._end = end
        self._link = link
        self._token = token
        self.guard = RollbackGuard(end)
        self.own_restore = OwnRestore(end, link, self.guard, token)
        self._standing = StandingReader(end)
        self._judge = HeartbeatJudge(end, self.guard, token, self._standing)
        self._accepted_s: float | None = None
        self._report: PeerReport | None = None
        self._unwritten: str | None = None
        self._accepted: str | None = None
        self._young: str | None = None
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[KmeError | None]] = []
        self._was_alive: bool | None = None
        self._quiet_until_s = 0.0

    @property
    def report(self) -> PeerReport | None:
        """What the peer reported last; None before the first accepted heartbeat."""
        return self._report

    @property
    def is_alive(self) -> bool:
        """Whether `require_alive` would return."""
        try:
            self.require_alive()
        except PeerUnavailableError:
            return False
        return True

    def liveness(self) -> PeerLiveness:
        """Return how the peer is doing now."""
        accepted_s = self._accepted_s
        return PeerLiveness(
            accepted_s,
            None if accepted_s is None else accepted_s + self._end.config.lease_s,
            _refusal_of(self.require_alive),
            _refusal_of(self.guard.require_ours_sound),
        )

    def require_alive(self) -> None:
        """Return if the peer was heard within its lease.

        It must have sent an acceptable heartbeat of its own, too, since this
        process started: else a peer that was found rolled back before could
        not be told yet from a sound one.

        Raises
        ------
        PeerUnavailableError
            If it was not, or one of the two was rolled back.
        """
        self.guard.require_none()
        self._require_accepted()
        lease_s, accepted_s = self._end.config.lease_s, self._accepted_s
        if accepted_s is None or self._end.clock.monotonic_s() - accepted_s >= lease_s:
            raise PeerUnavailableError(
                f"KME {self._end.peer} was not heard within {lease_s:g} s: try again later"
            )

    def require_heard_once(self) -> None:
        """Return if a heartbeat was accepted since the start, and our own store is sound.

        Raises
        ------
        PeerUnavailableError
            If not: what was handed out before could be handed out again.
        """
        self.guard.require_ours_sound()
        if self._accepted_s is None:
            raise PeerUnavailableError(
                f"KME {self._end.peer} was not heard since this KME started: try again later"
            )

    def require_sound(self) -> None:
        """Return if heartbeats of both were accepted since the start, and no roll-back was seen.

        Raises
        ------
        PeerUnavailableError
            If not: this KME takes part in no pairing then.
        """
        self.guard.require_none()
        self.require_heard_once()
        self._require_accepted()
        if self._end.clock.monotonic_s() < self._quiet_until_s:
            raise PeerUnavailableError(
                f"KME {self._end.peer} was restored just now: no block is made for"
                f" {self._end.config.lease_s:g} s"
            )

    async def from_now(self) -> None:
        """Return after a heartbeat that begins after this call was accepted.

        Raises
        ------
        PeerUnavailableError
            If two in a row were not, or none within the lease.
        """
        self.guard.require_none()
        error: KmeError | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._end.config.lease_s):
                for _ in range(_TRIES_ON_DEMAND):
                    error = await self._next_beat()
                    self.guard.require_none()
                    if error is None:
                        return
        raise PeerUnavailableError(
            f"KME {self._end.peer} accepted no heartbeat: try again later"
        ) from error

    @property
    def judging(self) -> asyncio.Lock:
        """Held while a heartbeat of the peer is judged."""
        return self._judge.judging

    def begin_anew(self) -> None:
        """Count the peer as gone until it is heard again, because it was restored.

        A roll-back that was seen is mended. What was promised may be drawn
        meanwhile, if it could be before.
        """
        self._judge.begin_anew()
        # A proposal from before may still be under way: it must not take a number now.
        self._quiet_until_s = self._end.clock.monotonic_s() + self._end.config.lease_s
        self.guard.lift()
        self._report = None
        if self._accepted_s is not None:
            self._accepted_s = -math.inf
        self._wanted.set()

    def hasten(self) -> None:
        """Send the next heartbeat at once, because there is news."""
        self._standing.forget()
        self._wanted.set()

    async def on_heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Judge a heartbeat of the peer.

        Raises
        ------
        PeerUnavailableError
            If this KME was restored, and that isn't agreed with the peer yet.
        """
        await self.own_restore.require_agreed()
        return await self._judge.judge(heartbeat)

    async def run(self) -> None:
        """Send heartbeats, one by one, until cancelled."""
        while True:
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            error: KmeError | None = PeerUnavailableError("heartbeats were stopped")
            try:
                error = await self._try_beat()
            finally:
                for waiter in waiting:
                    if not waiter.done():
                        waiter.set_result(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._end.config.heartbeat_interval_s):
                    await self._wanted.wait()

    def _require_accepted(self) -> None:
        if not self._judge.has_accepted:
            raise PeerUnavailableError(
                f"KME {self._end.peer} has sent no heartbeat since this KME started: try again"
                " later, and see whether it can reach this KME"
            )

    def _next_beat(self) -> "asyncio.Future[KmeError | None]":
        """Return what becomes of the next heartbeat to begin; the one under way is not it."""
        waiter: asyncio.Future[KmeError | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        return waiter

    async def _try_beat(self) -> KmeError | None:
        try:
            # A nonce that was pending before may be older than a claim that waits: an older copy
            # of the store, without the claim, could know it too. So a young one follows it.
            if not await self._beat() and not await self._beat():
                raise PeerUnavailableError("another process of this KME sends heartbeats, too")
        except KmeError as error:
            self._log_change(is_alive=False, reason=error.message)
            return error
        self._log_change(is_alive=True, reason="a heartbeat was accepted")
        return None

    async def _beat(self) -> bool:
        """Have one heartbeat accepted: durable here before it is sent, and there before the answer.

        That it was accepted is kept in memory, until the next one is begun.

        Returns
        -------
        bool
            Whether its nonce was written after this call.

        Raises
        ------
        PeerUnavailableError
            If it was not, for whatever reason.
        StoreUnavailableError
            If our own store takes no write.
        """
        if await self.own_restore.agree():
            self._standing.forget()
        begun_s, n_lifted = self._end.clock.monotonic_s(), self.guard.n_lifted
        self._young = None
        heartbeat = await self._prepare(None)
        answer = await self._link.heartbeat(heartbeat)
        if answer.outcome is HeartbeatOutcome.CHALLENGED:
            heartbeat = await self._prepare(answer.challenge)
            answer = await self._link.heartbeat(heartbeat)
        if n_lifted != self.guard.n_lifted:
            raise PeerUnavailableError(f"KME {self._end.peer} was restored meanwhile")
        await self._check(answer)
        self._accepted = heartbeat.nonce
        self._accepted_s = begun_s
        self._report = PeerReport(heartbeat.settled, answer.free_bytes)
        return heartbeat.nonce == self._young

    async def _prepare(self, challenge: str | None) -> Heartbeat:
        """Write the nonce before it is sent, and tell where we stand."""
        store, peer = self._end.store, self._end.peer
        # After a write that may or may not have landed the nonce stays the same.
        carried = self._unwritten
        self._unwritten = carried or self._token()
        record = await store.begin_heartbeat(peer, self._unwritten, self._accepted)
        if record.pending == self._unwritten:
            self._young = None if carried else self._unwritten
            self._unwritten = None
        elif carried is None:
            self._unwritten = None  # another one is pending, and this one was surely not written
        if challenge is not None:
            record = await store.heartbeat(peer)  # nothing but a fresh reading answers it
        nonce = record.pending
        if nonce is None:
            raise PeerUnavailableError("the store lost the heartbeat that was just written to it")
        standing = await self._standing.recent()
        return Heartbeat(
            nonce,
            record.acknowledged,
            challenge,
            standing.settled,
            standing.free_bytes,
            standing.frontier,
        )

    async def _check(self, answer: HeartbeatAnswer) -> None:
        peer = self._end.peer
        if answer.outcome is HeartbeatOutcome.ROLLED_BACK:
            await self.guard.declare(
                f"KME {peer} saw a newer state of KME {self._end.local} than this one, or was"
                " itself restored from an older copy: keys stay closed until an operator acts",
                may_be_ours=True,
            )
        if answer.outcome is not HeartbeatOutcome.ACCEPTED:
            raise PeerUnavailableError(f"KME {peer} did not accept the heartbeat")
        await self._judge.check_settled(answer.settled)
        self.guard.require_ours_sound()

    def _log_change(self, *, is_alive: bool, reason: str) -> None:
        if is_alive != self._was_alive:
            level = logging.INFO if is_alive else logging.WARNING
            event = "peer is alive" if is_alive else "peer is not heard"
            _logger.log(level, event, extra={"peer": self._end.peer, "reason": reason})
        self._was_alive = is_alive


def _refusal_of(require: Callable[[], None]) -> str | None:
    """Return why a requirement isn't met; None if it is."""
    try:
        require()
    except PeerUnavailableError as error:
        return error.message
    return None
