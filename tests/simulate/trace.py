"""trace - what happened in one run: time, who, what; only the last of it is kept."""

from collections import Counter, deque
from typing import Final

from simulation import VirtualClock

KEPT_EVENTS: Final = 400
"""So much of a long run is enough to see what led to its end."""


class Trace:
    """Events in the order in which they happened.

    Nothing random that is not of the seed stands in it (no nonce, no name of a
    worker made by the code), so two runs of one seed have the same trace.

    Parameters
    ----------
    clock
        The simulation's true time.
    n_kept
        How many events are kept; all of them if None.
    """

    def __init__(self, clock: VirtualClock, n_kept: int | None = KEPT_EVENTS) -> None:
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self._events: deque[tuple[float, str, str]] = deque(maxlen=n_kept)
        self.n_events = 0
        self.counts: Counter[str] = Counter()

    def note(self, who: str, what: str) -> None:
        """Take an event."""
        self.n_events += 1
        self._events.append((self._clock.monotonic_s() - self._begun_s, who, what))

    def count(self, name: str, n: int = 1) -> None:
        """Count something for the summary."""
        self.counts[name] += n

    def lines(self, n_last: int | None = None) -> list[str]:
        """Return the events kept, or the last ones of them, as text."""
        kept = list(self._events)
        kept = kept if n_last is None else kept[-n_last:]
        left_out = self.n_events - len(kept)
        head = [f"... {left_out} events before"] if left_out else []
        return head + [f"{at_s:9.3f}  {who:<12} {what}" for at_s, who, what in kept]
