"""expirystate - expiries noted, and how far they were carried out: one document per pair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kme.store import rules
from kme.store.records import Expiry, Frontier

FORGET_AFTER_S: Final = 24 * 3600.0
"""So long after the floors passed a block, all that is left of it may be forgotten."""


@dataclass(slots=True)
class ExpiryState:
    """What a pair's expiry document says; each method is one atomic step.

    Parameters
    ----------
    noted
        The expiries not carried out yet, in the order in which they are due.
    looked_up_to
        All numbers up to this one were looked at, and what was behind is gone.
    left
        Blocks up to there of which keys may still be drawn.
    passed
        The number up to which the floors were raised last, because nothing lives there.
    passed_unix_s
        When that was, by the clock of who raised them.
    forgotten
        All that lay up to this number is forgotten, the tombstones as well.
    """

    noted: list[Expiry] = field(default_factory=list)
    looked_up_to: int = 0
    left: tuple[int, ...] = ()
    passed: int = 0
    passed_unix_s: float = 0.0
    forgotten: int = 0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            [
                Expiry(Frontier(number, dict(open_from)), due_unix_s)
                for due_unix_s, number, open_from in data.get("noted", [])
            ],
            int(data.get("looked_up_to", 0)),
            tuple(data.get("left", [])),
            int(data.get("passed", 0)),
            float(data.get("passed_unix_s", 0.0)),
            int(data.get("forgotten", 0)),
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "noted": [
                [
                    one.due_unix_s,
                    one.frontier.number,
                    [[n, granule] for n, granule in one.frontier.open_from.items()],
                ]
                for one in self.noted
            ],
            "looked_up_to": self.looked_up_to,
            "left": list(self.left),
            "passed": self.passed,
            "passed_unix_s": self.passed_unix_s,
            "forgotten": self.forgotten,
        }

    def note(self, expiry: Expiry) -> None:
        """Note one more; the last one again changes nothing.

        Raises
        ------
        InputError
            As in `kme.store.rules.notes`.
        """
        if rules.notes(self.noted, expiry):
            self.noted.append(expiry)

    def due(self, now_unix_s: float) -> list[Expiry]:
        """Return the expiries that are due, in order."""
        return [one for one in self.noted if one.due_unix_s <= now_unix_s]

    @property
    def lowest(self) -> int:
        """The lowest number of which keys may still be drawn."""
        return min(self.left, default=self.looked_up_to + 1)

    def looked(
        self, before: Self, looked_up_to: int, left: Iterable[int], done: Sequence[Expiry]
    ) -> None:
        """Take note of what was carried out; not if somebody else did something since `before`.

        What one has destroyed the other finds destroyed, so nothing is lost by that.
        """
        if (self.looked_up_to, self.left) != (before.looked_up_to, before.left):
            return
        self.looked_up_to, self.left = looked_up_to, tuple(sorted(left))
        if self.noted[: len(done)] == list(done):
            del self.noted[: len(done)]

    def passes(self, number: int, now_unix_s: float) -> None:
        """Take note that the floors were raised to a number."""
        if number > self.passed and self.forgotten == self.passed:
            self.passed, self.passed_unix_s = number, now_unix_s

    def is_over(self, now_unix_s: float) -> bool:
        """Return whether there is something to forget by now."""
        is_old = now_unix_s >= self.passed_unix_s + FORGET_AFTER_S
        return self.forgotten < self.passed and is_old

    def forget(self, number: int) -> None:
        """Take note that all up to a number was forgotten."""
        self.forgotten = max(self.forgotten, min(number, self.passed))
