"""room - how many more final keys of a source may wait in the inbox: backpressure begins here.

Pairing forms no block while the pair's stock is full or the peer is away; then
final keys wait, and while too many do, files stay in their folder. A driver of
a link looks at how many lie there and pauses (`kme.epochs.driver.most_waiting`).
So a link that nobody draws from comes to rest, and nothing is dropped.
"""

from typing import Final

from kme.clock import Clock
from kme.errors import InboxFullError
from kme.ids import KmeId, SourceId
from kme.store.ports import InboxStore

MAX_WAITING_KEYS: Final = 4096
"""So many parts of final keys of one source wait for pairing: 64 MiB at most."""

COUNT_INTERVAL_S: Final = 2.0
"""A full inbox is counted again after so long."""


class InboxRoom:
    """Counts what waits, seldom: while there is room, only what was let in since is added.

    Parameters
    ----------
    store
        Where final keys wait.
    clock
        The time.
    most
        So many may wait of each source.
    """

    def __init__(self, store: InboxStore, clock: Clock, most: int = MAX_WAITING_KEYS) -> None:
        self._store = store
        self._clock = clock
        self._most = most
        self._left: dict[tuple[KmeId, SourceId], int] = {}
        self._counted_s: dict[tuple[KmeId, SourceId], float] = {}

    async def require(self, peer: KmeId, source: SourceId, n_parts: int) -> None:
        """Return if one more final key of so many parts may come in, and count it.

        Raises
        ------
        InboxFullError
            If too many wait.
        StoreUnavailableError
            If the store doesn't answer.
        """
        place = peer, source
        if self._left.get(place, 0) < n_parts:
            await self._count(place)
        if self._left.get(place, 0) < n_parts:
            raise InboxFullError(
                f"{self._most} final keys of source {source} wait to be paired with KME {peer}:"
                " files stay in their folder until some are; is that KME away, or the stock full?"
            )
        self._left[place] -= n_parts

    async def _count(self, place: tuple[KmeId, SourceId]) -> None:
        now_s = self._clock.monotonic_s()
        if place in self._counted_s and now_s - self._counted_s[place] < COUNT_INTERVAL_S:
            return
        n_waiting = await self._store.n_waiting(*place, self._most)
        self._left[place], self._counted_s[place] = self._most - n_waiting, now_s
