"""histories - what concurrent SAEs asked and were told, and whether any order of it is allowed.

The sequential specification of one key_ID is tiny: it is given out once, to a
master, for one slave; then that slave draws it at most once and gets the same
bytes; nobody else ever gets it. A history is *linearizable* [1]_ if every call
can be thought to happen at one moment between its begin and its end so that
this order meets the specification. Keys don't influence each other, so each
is checked alone, exactly, by trying all orders.

Notes
-----
A call whose outcome nobody knows (time-out, broken connection, 503) may have
happened at any moment after its begin, or never: both are tried. That a KME
gives no key at all is not against this specification; that it refuses a key
to its slave which nobody can have drawn is.

References
----------
.. [1] M. Herlihy, J. Wing: Linearizability, ACM TOPLAS 12 (1990) 463-492.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kme.ids import KeyId, SaeId
from kme.units import GRANULE_BYTES

NEVER_S: Final = math.inf
"""When a call ended of which nobody knows how, or whether, it ended."""


class Outcome(Enum):
    """What the caller of dec_keys knows about one key_ID.

    ``REFUSED`` was said about this id alone; ``REFUSED_TOGETHER`` about a
    request of several ids, of which any may have been the reason.
    """

    OK = "ok"
    REFUSED = "refused"
    REFUSED_TOGETHER = "refused together"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Given:
    """One key that enc_keys gave to a master.

    Parameters
    ----------
    key_id, key
        As they came.
    master, slave
        Who asked, and for whom.
    call_s, return_s
        When the request began and when its answer was there (one clock for all).
    """

    key_id: str
    key: bytes = field(repr=False)
    master: SaeId
    slave: SaeId
    call_s: float
    return_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One key_ID that dec_keys was asked for.

    Parameters
    ----------
    key_id
        Which.
    master, caller
        The SAE in the path, and who asked.
    outcome
        What came of it.
    key
        The bytes if there were some.
    call_s, return_s
        When the request began and when its answer was there; `NEVER_S` if none came.
    """

    key_id: str
    master: SaeId
    caller: SaeId
    outcome: Outcome
    key: bytes | None = field(repr=False)
    call_s: float
    return_s: float


Event = Given | Asked
_State = tuple[Given | None, bool]
"""Who was given the key, if anybody was; whether it was drawn."""

_FRESH: Final[_State] = (None, False)


@dataclass
class History:
    """All that happened in one run.

    Parameters
    ----------
    given
        What masters got.
    asked
        What was asked for by key_ID, by anybody.
    n_unanswered
        How many keys were asked for by requests whose answer never came: the
        KME may have cut them, and nobody knows their ids.
    """

    given: list[Given] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    n_unanswered: int = 0

    @property
    def by_key_id(self) -> dict[str, list[Event]]:
        """The events of each key_ID; upper and lower case are one id."""
        found: dict[str, list[Event]] = defaultdict(list)
        events: list[Event] = [*self.given, *self.asked]
        for event in events:
            found[event.key_id.lower()].append(event)
        return found

    def violations(self) -> list[str]:
        """Return what is wrong, in words and without bytes; nothing if all is right."""
        wrong = [
            f"{key_id}: no order of these is allowed: {_told(events)}"
            for key_id, events in self.by_key_id.items()
            if not is_linearizable(events)
        ]
        return [*wrong, *self._overlaps(), *self._repeats()]

    def _overlaps(self) -> list[str]:
        """Return pairs of ids whose places share a granule."""
        places: dict[tuple[int, int], str] = {}
        wrong = set()
        for one in self.given:
            key_id = KeyId.parse(one.key_id)
            for granule in range(key_id.n_granules):
                place = (key_id.block_number, key_id.offset_granules + granule)
                other = places.setdefault(place, one.key_id)
                if other != one.key_id:
                    wrong.add(f"{other} and {one.key_id} share bytes of a block")
        return sorted(wrong)

    def _repeats(self) -> list[str]:
        """Return pairs of ids with a granule of equal bytes: they are random, so that is no chance.

        Half a granule at the end of a key says too little and is left out.
        """
        seen: dict[bytes, str] = {}
        wrong = set()
        for one in self.given:
            for begin in range(0, len(one.key) - GRANULE_BYTES + 1, GRANULE_BYTES):
                other = seen.setdefault(one.key[begin : begin + GRANULE_BYTES], one.key_id)
                if other != one.key_id:
                    wrong.add(f"{other} and {one.key_id} have bytes in common")
        return sorted(wrong)


def is_linearizable(events: Sequence[Event]) -> bool:
    """Return whether some order of one key_ID's events meets the specification.

    Parameters
    ----------
    events
        All of one key_ID, in any order.
    """
    events = _that_matter(events)
    everything = frozenset(range(len(events)))
    stack: list[tuple[frozenset[int], _State]] = [(everything, _FRESH)]
    tried = set(stack)
    while stack:
        left, state = stack.pop()
        if all(events[i].return_s == NEVER_S for i in left):
            return True
        # Whatever ended first of all that is left can have nothing behind its end before it.
        first_end_s = min(events[i].return_s for i in left)
        for i in left:
            if events[i].call_s > first_end_s:
                continue
            for after in _after(state, events[i]):
                step = (left - {i}, after)
                if step not in tried:
                    tried.add(step)
                    stack.append(step)
    return False


def _that_matter(events: Sequence[Event]) -> list[Event]:
    """Leave out what makes no difference, so that many calls in vain don't take for ever.

    What was refused together with other ids says nothing. Of the ambiguous
    draws of one caller at most one took place, and whatever moment suits
    another one suits the one that began first.
    """
    kept: list[Event] = []
    first: dict[tuple[SaeId, SaeId], Asked] = {}
    for event in sorted(events, key=lambda one: one.call_s):
        if isinstance(event, Given) or event.outcome in {Outcome.OK, Outcome.REFUSED}:
            kept.append(event)
        elif event.outcome is Outcome.AMBIGUOUS:
            first.setdefault((event.master, event.caller), event)
    return [*kept, *first.values()]


def _after(state: _State, event: Event) -> Iterable[_State]:
    """Return the states that an event can lead to; none if it is not allowed now."""
    given, is_drawn = state
    if isinstance(event, Given):
        return [] if given is not None else [(event, False)]
    is_for_caller = given is not None and (given.master, given.slave) == (
        event.master,
        event.caller,
    )
    is_here = is_for_caller and not is_drawn
    match event.outcome:
        case Outcome.OK:
            is_right = is_here and given is not None and event.key == given.key
            return [(given, True)] if is_right else []
        case Outcome.REFUSED:
            return [] if is_here else [state]
        case _:
            return [(given, True)] if is_here else [state]


def _told(events: Sequence[Event]) -> str:
    """Return events in words, in order of their begin."""
    words = []
    for event in sorted(events, key=lambda one: one.call_s):
        span = f"[{event.call_s:.4f}, {event.return_s:.4f}]"
        if isinstance(event, Given):
            words.append(f"given to {event.master} for {event.slave} {span}")
        else:
            words.append(f"{event.outcome.value} to {event.caller} of {event.master} {span}")
    return "; ".join(words)
