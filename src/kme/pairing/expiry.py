"""expiry - frontiers come in with the peer's heartbeats; a lifetime later what is behind expires.

Nothing is told per key. The peer says which places of its own blocks it will
never allocate from any more; a key that lies there was handed out before. So
here, where keys of these blocks are drawn and nowhere else, one date is noted
for all of them, and each lives at least its lifetime and little more.

What a peer says is believed, because the blocks are its own: a broken or
hostile one can make only those keys expire early that it gave out itself, and
it could as well never have given them out. The keys that this KME gives out
expire at the other end.
"""

import logging
from typing import Final, Protocol

from kme.clock import Clock
from kme.errors import KmeError
from kme.ids import KmeId
from kme.store.ports import ExpiryStore, PairingStore
from kme.store.records import Expiry, Frontier, PairingRecord

_logger = logging.getLogger(__name__)

_PARTS: Final = 64
"""A lifetime has so many parts; one expiry is noted in each, at most."""

_MIN_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 60.0
"""The loop looks at least so often, because clocks may be set."""

_SWEEP_S: Final = 600.0


class KeepingStore(ExpiryStore, PairingStore, Protocol):
    """What expiry needs of a store."""


class KeyExpiry:
    """Lets keys of one peer expire that nobody drew here (ADR 0013).

    Only `run` reads and writes the store, so that a heartbeat costs nothing
    more; one process per KME may run it.

    Dates are those of this KME's universal clock, for they outlive the
    process. Where it is set back, nothing more is noted until it has caught
    up, and keys live longer by as much; where it is set forward, less long.

    Parameters
    ----------
    peer
        The pair's other KME; this one for the pair with itself.
    store
        Where expiries are noted, and keys are.
    clock
        The time.
    lifetime_s
        How long keys may be drawn.
    """

    def __init__(self, peer: KmeId, store: KeepingStore, clock: Clock, lifetime_s: int) -> None:
        self._peer = peer
        self._store = store
        self._clock = clock
        self._set_lifetime_s = lifetime_s
        self._heard = Frontier()
        self._noted = Frontier()
        self._refused: Frontier | None = None
        self._waiting: list[Expiry] | None = None
        self._swept_s = clock.monotonic_s()

    def heard(self, frontier: Frontier) -> None:
        """Take note of what an accepted heartbeat of the peer says."""
        self._heard = frontier

    async def run(self) -> None:
        """Note what is heard and let expire what is due, until cancelled."""
        while True:
            await self.try_step()
            await self._clock.sleep(self.pause_s())

    async def try_step(self) -> None:
        """Do a step; if the store doesn't answer, begin anew with the next one."""
        try:
            await self.step()
        except KmeError as error:
            self._waiting = None  # what was written is unknown
            fields = {"peer": self._peer, "reason": error.message}
            _logger.warning("expiry waits", extra=fields)

    async def step(self) -> None:
        """Let expire what is due, then note what was heard last, if it is news.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer; what was written is unknown.
        InputError
            If another process noted something meanwhile.
        """
        if self._waiting is None:
            self._waiting = await self._store.expiries(self._peer)
            if self._waiting:
                self._noted = self._waiting[-1].frontier
        self._waiting = await self._expire(self._waiting)
        # A heartbeat that was late, or is repeated by a restarted peer, says
        # less than an earlier one did: that is true as well, and no news.
        heard = self._heard
        if heard != self._noted and _reaches(heard, self._noted):
            await self._note(heard, self._waiting)

    async def _expire(self, waiting: list[Expiry]) -> list[Expiry]:
        """Carry out what is due; return what still waits."""
        now_s, swept_s = self._clock.now_s(), self._clock.monotonic_s()
        is_due = bool(waiting) and waiting[0].due_unix_s <= now_s
        # Floors that rose may have left blocks to destroy, too many for that moment.
        if not is_due and swept_s < self._swept_s + _SWEEP_S:
            return waiting
        self._swept_s = swept_s
        n_granules = await self._store.expire(self._peer, now_s)
        if n_granules:
            fields = {"peer": self._peer, "n_granules": n_granules}
            _logger.info("keys expired that were not drawn", extra=fields)
        return [expiry for expiry in waiting if expiry.due_unix_s > now_s]

    async def _note(self, frontier: Frontier, waiting: list[Expiry]) -> None:
        """Note when what is behind a frontier expires, unless it is too soon for another note."""
        store, peer = self._store, self._peer
        record = await store.pairing(peer)
        if frontier.number > record.highest + 1:
            self._refuse(frontier, record.highest)
            return
        lifetime_s = self._lifetime_s(record)
        due_s = self._clock.now_s() + lifetime_s
        if waiting and due_s < waiting[-1].due_unix_s + _interval_s(lifetime_s):
            return
        expiry = Expiry(frontier, due_s)
        await store.note_expiry(peer, expiry)
        waiting.append(expiry)
        self._noted = frontier

    def _refuse(self, frontier: Frontier, highest: int) -> None:
        """Warn, once, of a frontier that would let keys of blocks expire that are still to come.

        An honest peer knows no number that was never proposed, and neither
        side settles one before the other has it.
        """
        if frontier != self._refused:
            fields = {"peer": self._peer, "number": frontier.number, "highest": highest}
            _logger.warning("frontier ignored, it names blocks that are unknown", extra=fields)
        self._refused = frontier

    def _lifetime_s(self, record: PairingRecord) -> int:
        """Return how long what is used up now may still be drawn.

        The longer one of our own setting and of the lifetime that the leader
        named last: the two sites need not agree on it, and when the setting is
        lowered, blocks made before keep the longer lifetime until one with the
        lower one is made.
        """
        newest_s = record.last.proposal.lifetime_s if record.last else 0
        return max(self._set_lifetime_s, newest_s)

    def pause_s(self) -> float:
        """Return after how long the next step is due, in seconds."""
        pause_s = min(_MAX_PAUSE_S, _interval_s(self._set_lifetime_s))
        if self._waiting:
            pause_s = min(pause_s, self._waiting[0].due_unix_s - self._clock.now_s())
        return max(_MIN_PAUSE_S, pause_s)


def _interval_s(lifetime_s: int) -> float:
    """Return how far apart expiries are at least, so that never too many wait."""
    return max(_MIN_PAUSE_S, lifetime_s / _PARTS)


def _reaches(frontier: Frontier, earlier: Frontier) -> bool:
    """Return whether all that is behind the earlier frontier is behind this one, too."""
    return frontier.number >= earlier.number and not any(
        earlier.is_behind(number, granule) for number, granule in frontier.open_from.items()
    )
