"""records - what the registry holds: SAEs with their certificates, lists of peers, disputes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kme.errors import InputError
from kme.ids import KmeId, SaeId

MAX_SAES: Final = 1000
"""A KME has at most so many SAEs; a list of them fits one message."""


def hold_of(lifetime_s: float) -> float:
    """Return how long the id of an SAE that was removed is given to nobody else, in seconds.

    No key outlives it: one is destroyed up to a 64th of its lifetime late, and
    was perhaps cut from a claim that was held for ten minutes.
    """
    return lifetime_s * 33 / 32 + 900


DEFAULT_HOLD_S: Final = hold_of(86_400)
"""As long as keys live unless a site chooses otherwise: 25 hours."""


@dataclass(frozen=True, slots=True)
class SaeList:
    """All SAEs that live at the KME that says so.

    Parameters
    ----------
    counter
        Grows with every change of the list.
    saes
        Each once.
    """

    counter: int
    saes: tuple[SaeId, ...]


@dataclass(frozen=True, slots=True)
class SaeEntry:
    """One SAE at one KME.

    Parameters
    ----------
    since_s
        When it was registered, or first told of: seconds since 1970.
    removed_s
        When it was removed; None while it lives there.
    serials
        Serial numbers of the certificates that were issued to it, as Vault
        writes them; of this KME's own SAEs only.
    """

    since_s: float
    removed_s: float | None = None
    serials: tuple[str, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether the SAE lives there now."""
        return self.removed_s is None

    def holds(self, now_s: float, hold_s: float) -> bool:
        """Return whether nobody else may have the id: it is in use, or was not long ago."""
        return self.removed_s is None or now_s < self.removed_s + hold_s

    def to_json(self) -> dict[str, object]:
        """Write it as members of a document."""
        entry: dict[str, object] = {"since": self.since_s, "removed": self.removed_s}
        return entry | ({"serials": list(self.serials)} if self.serials else {})

    @classmethod
    def from_json(cls, entry: object) -> "SaeEntry":
        """Read it.

        Raises
        ------
        InputError
            If it is none.
        """
        try:
            members = dict(entry)  # type: ignore[call-overload]
            removed = members.get("removed")
            return cls(
                float(members["since"]),
                None if removed is None else float(removed),
                tuple(str(serial) for serial in members.get("serials", ())),
            )
        except (TypeError, ValueError, LookupError) as error:
            raise InputError("an SAE in the registry is not written as it should be") from error


Register = Mapping[SaeId, SaeEntry]
"""The SAEs of one KME, removed ones included as long as their ids are held."""


@dataclass(frozen=True, slots=True)
class Population:
    """Which SAE lives where, after all disputes are settled.

    Parameters
    ----------
    residents
        Each SAE with its one home.
    disputed
        Claims that do not count: the SAE, and the KME that claims it.
    """

    residents: tuple[tuple[SaeId, KmeId], ...]
    disputed: tuple[tuple[SaeId, KmeId], ...]


def populate(
    local: KmeId,
    own: Register,
    peers: Mapping[KmeId, Register],
    now_s: float,
    hold_s: float = DEFAULT_HOLD_S,
) -> Population:
    """Settle which SAE lives where.

    An id that this KME holds is no peer's; of several peers that hold one, the
    first known has it. Ids of SAEs that were removed are held for `hold_s`.
    """
    residents = [(sae, local) for sae, entry in own.items() if entry.is_active]
    disputed: list[tuple[SaeId, KmeId]] = []
    holders: dict[SaeId, list[tuple[float, KmeId]]] = {}
    for kme, register in peers.items():
        for sae, entry in register.items():
            if entry.holds(now_s, hold_s):
                holders.setdefault(sae, []).append((entry.since_s, kme))
    for sae, claims in holders.items():
        is_ours = sae in own and own[sae].holds(now_s, hold_s)
        first = None if is_ours else min(claims)[1]
        for _, kme in sorted(claims):
            if peers[kme][sae].is_active:
                (residents if kme == first else disputed).append((sae, kme))
    return Population(tuple(sorted(residents)), tuple(sorted(disputed)))
