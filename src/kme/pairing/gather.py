"""gather - the inbox of one source in, lists of final keys that both KMEs hold out."""

from typing import Final

from kme.ids import SourceId
from kme.pairing.pair import MAX_ENTRIES, PairEnd
from kme.pairing.ports import PeerLink
from kme.store.records import MIN_BLOCK_BYTES, FinalKeyRef, InboxEntry

_PAGE_ENTRIES: Final = 256
_PAGES_AT_ONCE: Final = 8


class Gatherer:
    """What the next block of one source could be made of.

    It looks through the inbox page by page, from the oldest entry on, and
    begins again behind the newest; where it is stays known from call to call,
    so that any number of entries that the peer never gets delays the others
    and blocks none. All of it is lost with the process, and found again.

    Parameters
    ----------
    end
        The leader's end of the pair.
    link
        The way to the follower.
    source
        Whose final keys.
    """

    def __init__(self, end: PairEnd, link: PeerLink, source: SourceId) -> None:
        self._end = end
        self._link = link
        self._source = source
        self._after: FinalKeyRef | None = None
        self.forget()

    def forget(self) -> None:
        """Drop what was gathered: it became a block, or can't be one."""
        self._sizes: dict[FinalKeyRef, int] = {}
        self._since_s: float | None = None
        self._is_full = False

    async def gather(self) -> tuple[FinalKeyRef, ...]:
        """Look on for a bounded while, and return a block's entries once it is due.

        It is due when it has enough bytes and is full, or its first entry was
        found longer ago than final keys are to be gathered.

        Returns
        -------
        tuple of FinalKeyRef
            In order of epoch and part; empty if no block is due yet.

        Raises
        ------
        PeerUnavailableError
            If the peer doesn't say what it holds.
        """
        for _ in range(_PAGES_AT_ONCE):
            if self._is_full or not await self._look_on():
                break
        n_bytes = sum(self._sizes.values())
        is_due = self._is_full or self._has_waited()
        return tuple(sorted(self._sizes)) if is_due and n_bytes >= MIN_BLOCK_BYTES else ()

    async def _look_on(self) -> bool:
        """Look at the next page; return whether there may be another one behind it."""
        end = self._end
        page = await end.store.inbox(end.peer, self._source, self._after, _PAGE_ENTRIES)
        unknown = [entry.ref for entry in page if entry.ref not in self._sizes]
        held = set(await self._link.held(unknown)) if unknown else set()
        for entry in page:
            if entry.ref in held and entry.ref not in self._sizes and not self._take(entry):
                return False
            self._after = entry.ref
        if len(page) < _PAGE_ENTRIES:
            self._after = None
            return False
        return True

    def _take(self, entry: InboxEntry) -> bool:
        """Add an entry if it fits; else the block is full without it, or made of it alone."""
        n_bytes = sum(self._sizes.values())
        is_room = n_bytes + entry.n_bytes <= self._end.config.block_bytes
        if is_room and len(self._sizes) < MAX_ENTRIES:
            self._sizes[entry.ref] = entry.n_bytes
            if self._since_s is None:
                self._since_s = self._end.clock.monotonic_s()
            return True
        if n_bytes < MIN_BLOCK_BYTES:
            # What was gathered is too little for a block; it waits for other small ones.
            self._sizes = {entry.ref: entry.n_bytes}
        self._is_full = True
        return False

    def _has_waited(self) -> bool:
        if self._since_s is None:
            return False
        return self._end.clock.monotonic_s() - self._since_s >= self._end.config.gather_s
