"""standing - where this end of a pair stands, as its peer is told; read at every other beat."""

import asyncio
from dataclasses import dataclass
from typing import Final

from kme.pairing.pair import PairEnd
from kme.store.records import Frontier, PairingRecord

_MAX_BEATS: Final = 1.5
"""What was read serves heartbeats of either direction begun within so many intervals."""


def settled_number(record: PairingRecord) -> int:
    """Return up to which number all blocks are settled; 0 before the first."""
    return record.last.proposal.number if record.last else 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where pairing stands, what could be allocated, and what never will be any more.

    Parameters
    ----------
    record
        The pair's record.
    free_bytes
        What `claim` could still reserve.
    frontier
        What is behind it is never allocated any more, of our own blocks.
    """

    record: PairingRecord
    free_bytes: int
    frontier: Frontier

    @property
    def settled(self) -> int:
        """Up to which number all blocks are settled; 0 before the first."""
        return settled_number(self.record)


class StandingReader:
    """Reads where this end stands, for the heartbeats of both directions.

    All that a heartbeat tells may be as old as the one before the last: marks
    only rise, so what is old tells too little, never too much. Whoever acts on
    what it says, or would raise an alarm, reads again first.

    Parameters
    ----------
    end
        This end of the pair.
    """

    def __init__(self, end: PairEnd) -> None:
        self._end = end
        self._kept: Standing | None = None
        self._read_s = 0.0
        self._n_changes = 0

    def forget(self) -> None:
        """Read again the next time, because something has changed."""
        self._kept = None
        self._n_changes += 1

    async def recent(self) -> Standing:
        """Return what was read last, unless that was too long ago.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        age_s = self._end.clock.monotonic_s() - self._read_s
        if self._kept is not None and age_s < _MAX_BEATS * self._end.config.heartbeat_interval_s:
            return self._kept
        return await self.fresh()

    async def fresh(self) -> Standing:
        """Read it now.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        store, peer = self._end.store, self._end.peer
        n_changes, begun_s = self._n_changes, self._end.clock.monotonic_s()
        record, stock, frontier = await asyncio.gather(
            store.pairing(peer), store.stock(peer), store.frontier(peer)
        )
        found = Standing(record, stock.n_bytes, frontier)
        if n_changes == self._n_changes:  # else it may be from before the change
            self._kept, self._read_s = found, begun_s
        return found
