"""pairing - one KME and all its peers: loops that send, and what it makes of their messages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from kme.clock import Clock
from kme.errors import IdentityError, KmeError
from kme.ids import KmeId
from kme.pairing.decide import Follower
from kme.pairing.expiry import KeyExpiry
from kme.pairing.heartbeat import Heartbeats, random_token
from kme.pairing.pair import PairEnd, PeerConfig
from kme.pairing.ports import (
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    PeerLink,
    PeerLiveness,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.pairing.propose import Leader
from kme.pairing.restored import PeerRestore
from kme.store.ports import Store
from kme.store.records import FinalKeyRef, Proposal, Verdict

_logger = logging.getLogger(__name__)

_IDLE_POLLS: Final = 3
"""While no block is due, so much less often than usual is looked for final keys."""


async def _heed_nothing() -> None:
    """Nobody holds a claim on any block."""


class _Peer:
    """All that goes on with one peer."""

    def __init__(self, end: PairEnd, link: PeerLink, token: Callable[[], str]) -> None:
        self.end = end
        self.heartbeats = Heartbeats(end, link, token)
        self.leader = Leader(end, link, self.heartbeats) if end.is_leader else None
        self.opening = self.leader.opening if self.leader else asyncio.Lock()
        self.follower = Follower(end, self.heartbeats)
        self.expiry = KeyExpiry(end.peer, end.store, end.clock, end.config.lifetime_s)
        self.restore = PeerRestore(end, self.heartbeats, token)

    async def lead(self) -> None:
        """Propose blocks until cancelled; the longer there is nothing to do, the less often."""
        config, clock = self.end.config, self.end.clock
        pause_s = idle_s = config.poll_s
        while self.leader is not None:
            if not self.heartbeats.is_alive:
                await clock.sleep(config.poll_s)
                continue
            try:
                has_settled = await self.leader.step()
            except KmeError as error:
                fields = {"peer": self.end.peer, "reason": error.message, "pause_s": pause_s}
                _logger.warning("pairing waits", extra=fields)
                await clock.sleep(pause_s)
                pause_s = min(2 * pause_s, config.max_backoff_s)
            else:
                pause_s = config.poll_s
                idle_s = pause_s if has_settled else min(2 * idle_s, _IDLE_POLLS * pause_s)
                await clock.sleep(0 if has_settled else idle_s)


class Pairing:
    """Pairing, heartbeats and expiry of one KME with all its peers.

    It is the `kme.pairing.ports.PeerHandler` of what peers send, and the
    `kme.pairing.ports.Liveness` of whoever hands out keys. Each peer has
    tasks, locks and a link of its own: none waits for another.

    Parameters
    ----------
    local
        This KME.
    store
        What it keeps.
    clock
        Its time.
    peers
        The configuration of each peer, and the way there.
    token
        Returns 32 fresh random hexadecimal digits.
    heed_floors
        Awaited after blocks were given up because a peer was restored, before
        that is told it.
    """

    def __init__(
        self,
        local: KmeId,
        store: Store,
        clock: Clock,
        peers: Sequence[tuple[PeerConfig, PeerLink]],
        token: Callable[[], str] = random_token,
        heed_floors: Callable[[], Awaitable[None]] = _heed_nothing,
    ) -> None:
        self._heed_floors = heed_floors
        self._peers: Mapping[KmeId, _Peer] = {
            config.peer: _Peer(PairEnd(local, config, store, clock), link, token)
            for config, link in peers
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Send heartbeats, propose blocks and let keys expire, until `stop` or cancelled.

        It may be stopped anywhere: what is under way is resumed at the next start.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(loop)
                for peer in self._peers.values()
                for loop in (peer.heartbeats.run(), peer.lead(), peer.expiry.run())
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def on_heartbeat(self, peer: KmeId, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Judge a peer's heartbeat; what an accepted one says of its blocks counts.

        Raises
        ------
        IdentityError
            If the sender is no peer of this KME.
        """
        found = self._peer(peer)
        answer = await found.heartbeats.on_heartbeat(heartbeat)
        if answer.outcome is HeartbeatOutcome.ACCEPTED:
            found.expiry.heard(heartbeat.frontier)
        return answer

    async def on_held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        """Say which of these final keys are in the inbox; of a source not shared, none.

        Raises
        ------
        IdentityError
            If the sender is no peer of this KME.
        """
        end = self._peer(peer).end
        shared = [ref for ref in refs if ref.source in end.config.sources]
        return [entry.ref for entry in await end.store.held(peer, shared)]

    async def on_propose(self, peer: KmeId, proposal: Proposal) -> Verdict:
        """Decide about a proposal, or repeat the verdict.

        Raises
        ------
        IdentityError
            If the sender is no peer of this KME.
        PairingError
            If the proposal breaks a rule.
        PeerUnavailableError
            If this KME cannot take part in pairing now.
        """
        return await self._peer(peer).follower.decide(proposal)

    async def on_ask_restore(self, peer: KmeId, incarnation: str) -> RestoreChallenge:
        """Give a restored peer a challenge.

        Raises
        ------
        IdentityError
            If the sender is no peer of this KME.
        """
        return await self._peer(peer).restore.challenge(incarnation)

    async def on_agree_restore(self, peer: KmeId, terms: RestoreTerms) -> RestoreConsent:
        """Accept a peer's restore; nothing is proposed, judged or decided meanwhile.

        Raises
        ------
        IdentityError
            If the sender is no peer of this KME.
        PeerUnavailableError
            If it has to ask again.
        """
        found = self._peer(peer)
        async with found.opening, found.follower.deciding, found.heartbeats.judging:
            consent = await found.restore.accept(terms)
        await self._heed_floors()
        return consent

    def require_alive(self, peer: KmeId) -> None:
        """Return if the peer was heard within its lease.

        Raises
        ------
        PeerUnavailableError
            If it was not, or one of the two was rolled back.
        IdentityError
            If it is no peer of this KME.
        """
        self._peer(peer).heartbeats.require_alive()

    def require_heard_once(self, peer: KmeId) -> None:
        """Return if one heartbeat was accepted since this process started.

        Raises
        ------
        PeerUnavailableError
            If none was, or this KME may have been rolled back.
        IdentityError
            If it is no peer of this KME.
        """
        self._peer(peer).heartbeats.require_heard_once()

    def liveness(self) -> dict[KmeId, PeerLiveness]:
        """Return how each peer is doing now."""
        return {name: peer.heartbeats.liveness() for name, peer in self._peers.items()}

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        """Return after a heartbeat that begins after this call was accepted.

        Raises
        ------
        PeerUnavailableError
            If none was accepted within the lease.
        IdentityError
            If it is no peer of this KME.
        """
        await self._peer(peer).heartbeats.from_now()

    async def burn_waiting(self, peer: KmeId) -> int:
        """Burn the final keys that wait, and return the highest block number seen then.

        Neither a proposal nor a verdict is under way meanwhile. So every block
        that is made of them later, because its proposal was open already or the
        peer has settled it, has at most this number at one of the two KMEs.

        Raises
        ------
        IdentityError
            If it is no peer of this KME.
        StoreUnavailableError
            If the store doesn't answer; what was burnt is unknown.
        """
        found = self._peer(peer)
        store = found.end.store
        async with found.opening, found.follower.deciding:
            n_burnt = await store.burn_inbox(peer)
            highest = (await store.pairing(peer)).highest
        _logger.warning("waiting final keys burnt", extra={"peer": peer, "n_final_keys": n_burnt})
        return highest

    async def retire(self, peer: KmeId) -> int:
        """Burn all that is kept for a peer, and return the highest block number seen.

        Neither a proposal nor a verdict is under way meanwhile.

        Raises
        ------
        IdentityError
            If it is no peer of this KME.
        StoreUnavailableError
            If the store doesn't answer; what was burnt is unknown.
        """
        found = self._peer(peer)
        async with found.opening, found.follower.deciding:
            return await found.end.store.retire(peer)

    def _peer(self, peer: KmeId) -> _Peer:
        try:
            return self._peers[peer]
        except KeyError:
            raise IdentityError(f"KME {peer} is not a peer of this KME") from None
