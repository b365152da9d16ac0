"""grants - keys granted to further slaves: what is kept of each, and when it may be kept or taken.

A *grant* lets an SAE have a key that was cut from a block of two other KMEs, or
for another SAE of this one. It is kept once, and each SAE that it names takes it
once. When nobody is left to take it its bytes go; that it was here stays known
until its time is over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from kme.errors import InputError, KeyNotFoundError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.records import GranuleRange

PROOF_BYTES: Final = 32
"""Length of what tells two grants apart."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A key for further slaves of this KME.

    Parameters
    ----------
    key_id
        Under which they ask for it.
    master
        The SAE that it was cut for.
    slaves
        Who may take it, each once.
    key
        Its bytes.
    proof
        32 bytes made of all that the grant says: a repeat has the same.
    due_unix_s
        Until when it may be taken, by this KME's clock, in seconds since 1970.
    pad
        The range that its bytes were masked with on their way; None if they
        never left this KME.
    """

    key_id: KeyId
    master: SaeId
    slaves: tuple[SaeId, ...]
    key: Secret = field(repr=False)
    proof: bytes
    due_unix_s: float
    pad: GranuleRange | None = None

    def __post_init__(self) -> None:
        if not self.slaves or len(set(self.slaves)) != len(self.slaves):
            raise InputError("a grant names no slave, or one twice")
        if len(self.proof) != PROOF_BYTES:
            raise InputError(f"a grant's proof has {PROOF_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class KeptGrant:
    """What is kept of a grant.

    Parameters
    ----------
    master, slaves, proof, due_unix_s
        As in `Grant`.
    waiting
        Those of the slaves who haven't taken it.
    key
        Its bytes; None once nobody waits.
    """

    master: SaeId
    slaves: tuple[SaeId, ...]
    proof: bytes
    due_unix_s: float
    waiting: tuple[SaeId, ...]
    key: Secret | None = field(repr=False)

    @classmethod
    def of(cls, grant: Grant) -> Self:
        """Return what is kept of a new grant; its slaves in order."""
        named = tuple(sorted(grant.slaves))
        return cls(grant.master, named, grant.proof, grant.due_unix_s, named, grant.key[:])

    def without(self, slave: SaeId) -> "KeptGrant":
        """Return it after a slave took it."""
        waiting = tuple(one for one in self.waiting if one != slave)
        return replace(self, waiting=waiting, key=self.key if waiting else None)


def fresh_of(kept: Mapping[KeyId, KeptGrant], grants: Sequence[Grant]) -> list[Grant]:
    """Return those of `grants` that are not kept yet.

    Raises
    ------
    InputError
        If a key_ID stands there twice, or another grant has one of them.
    """
    if len({grant.key_id for grant in grants}) != len(grants):
        raise InputError("a key is granted twice at once")
    fresh = []
    for grant in grants:
        known = kept.get(grant.key_id)
        if known is None:
            fresh.append(grant)
        elif known.proof != grant.proof:
            raise InputError("another key was granted under this key_ID")
    return fresh


def check_takes(kept: Mapping[KeyId, KeptGrant], slave: SaeId, key_ids: Sequence[KeyId]) -> None:
    """Return if a slave may take all of these.

    Raises
    ------
    KeyNotFoundError
        If one of them isn't there or doesn't wait for this slave.
    InputError
        If one is listed twice.
    """
    if len(set(key_ids)) != len(key_ids):
        raise InputError("a grant is taken twice at once")
    for key_id in key_ids:
        known = kept.get(key_id)
        if known is None or slave not in known.waiting:
            raise KeyNotFoundError("a key was not granted to this SAE, or was given out before")


def pads_of(grants: Sequence[Grant]) -> list[GranuleRange]:
    """Return the ranges that are drawn when these are kept, in order of their places."""
    pads = [grant.pad for grant in grants if grant.pad is not None]
    return sorted(pads, key=lambda pad: (pad.block_number, pad.start))


@dataclass(slots=True)
class GrantShelf:
    """All grants of a KME, as dictionaries; each method is one atomic step."""

    kept: dict[tuple[KmeId, KeyId], KeptGrant] = field(default_factory=dict)

    def find(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return copies of those that are here."""
        found = {key_id: self.kept.get((peer, key_id)) for key_id in key_ids}
        return {key_id: _copy(one) for key_id, one in found.items() if one is not None}

    def add(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        """Keep grants that are not kept yet."""
        self.kept |= {(peer, grant.key_id): KeptGrant.of(grant) for grant in grants}

    def take(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave took these: all of them or none."""
        check_takes(self.find(peer, key_ids), slave, key_ids)
        for key_id in key_ids:
            before = self.kept[peer, key_id]
            after = self.kept[peer, key_id] = before.without(slave)
            if after.key is None and before.key is not None:
                before.key.wipe()

    def purge(self, now_unix_s: float, limit: int) -> int:
        """Forget up to `limit` grants whose time is over."""
        over = [place for place, one in self.kept.items() if one.due_unix_s <= now_unix_s]
        for place in over[: max(limit, 0)]:
            if (key := self.kept.pop(place).key) is not None:
                key.wipe()
        return len(over[: max(limit, 0)])

    def burn(self, peer: KmeId) -> None:
        """Forget all grants of a peer."""
        for place in [place for place in self.kept if place[0] == peer]:
            if (key := self.kept.pop(place).key) is not None:
                key.wipe()

    def copy(self) -> "GrantShelf":
        """Return an independent copy; secrets are copied, too."""
        return GrantShelf({place: _copy(one) for place, one in self.kept.items()})


def _copy(one: KeptGrant) -> KeptGrant:
    return replace(one, key=None if one.key is None else one.key[:])
