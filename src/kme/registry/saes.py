"""saes - SAEs are added, removed and told of; which one lives where comes out."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from kme.clock import Clock
from kme.errors import ConflictError, InputError, RequestError
from kme.ids import KmeId, SaeId
from kme.registry.ports import DocumentStore
from kme.registry.records import (
    DEFAULT_HOLD_S,
    MAX_SAES,
    Population,
    Register,
    SaeEntry,
    SaeList,
    populate,
)

_logger = logging.getLogger(__name__)

OWN_PATH: Final = "registry/saes"
PEERS_PATH: Final = "registry/peers"

_MAX_TRIES: Final = 8
_MAX_ENTRIES: Final = 3 * MAX_SAES

_Change = Callable[[Mapping[str, Any]], dict[str, Any] | None]


class SaeRegistry:
    """The SAEs of this KME and what peers say of theirs, durable (architecture: rule 13).

    Parameters
    ----------
    local
        This KME.
    documents
        Where it is kept.
    clock
        The time.
    hold_s
        For how long the id of a removed SAE is given to nobody else; at least
        the longest lifetime of a key.
    """

    def __init__(
        self,
        local: KmeId,
        documents: DocumentStore,
        clock: Clock,
        hold_s: float = DEFAULT_HOLD_S,
    ) -> None:
        self._local = local
        self._documents = documents
        self._clock = clock
        self._hold_s = hold_s

    async def own(self) -> Register:
        """Return this KME's SAEs, with those that were removed."""
        return (await self._read(OWN_PATH))[0]

    async def told(self) -> SaeList:
        """Return what peers are told: the SAEs that live here now."""
        register, version = await self._read(OWN_PATH)
        return SaeList(version, tuple(sorted(s for s, e in register.items() if e.is_active)))

    async def of_peers(self, peers: Iterable[KmeId]) -> dict[KmeId, Register]:
        """Return what each peer said of its SAEs."""
        return {peer: (await self._read(f"{PEERS_PATH}/{peer}"))[0] for peer in peers}

    async def population(self, peers: Iterable[KmeId]) -> Population:
        """Return which SAE lives where now."""
        own, others = await self.own(), await self.of_peers(peers)
        return populate(self._local, own, others, self._clock.now_s(), self._hold_s)

    async def check_free(self, sae: SaeId, peers: Iterable[KmeId], *, renews: bool = False) -> None:
        """Return if a certificate may be issued to an SAE of this name.

        Parameters
        ----------
        sae
            The name.
        peers
            The KMEs whose SAEs it must not be.
        renews
            Whether it must be registered already, instead of new.

        Raises
        ------
        RequestError
            If not; the message says why and until when.
        """
        own = await self.own()
        _check_own(own, sae, self._clock.now_s(), self._hold_s, renews=renews)
        for peer, register in (await self.of_peers(peers)).items():
            entry = register.get(sae)
            if not renews and entry is not None and entry.holds(self._clock.now_s(), self._hold_s):
                raise RequestError(f"SAE {str(sae)!r} is registered at KME {peer}: take another id")

    async def add(self, sae: SaeId, serial: str, *, renews: bool = False) -> None:
        """Register an SAE with the certificate issued to it.

        Raises
        ------
        RequestError
            If its name is taken or held, or there are too many SAEs.
        ConflictError
            If others kept changing the registry meanwhile; nothing was written.
        """

        def change(data: Mapping[str, Any]) -> dict[str, Any]:
            own, now_s = _register(data), self._clock.now_s()
            _check_own(own, sae, now_s, self._hold_s, renews=renews)
            known = own[sae] if renews else SaeEntry(now_s)
            own = self._pruned({**own, sae: replace(known, serials=(*known.serials, serial))})
            if sum(entry.is_active for entry in own.values()) > MAX_SAES:
                raise RequestError(f"a KME has at most {MAX_SAES} SAEs: remove others first")
            return {"saes": _to_json(own)}

        await self._change(OWN_PATH, change)

    async def remove(self, sae: SaeId) -> tuple[str, ...]:
        """Remove an SAE, and return the serials of all its certificates, to be revoked.

        It may be repeated.

        Raises
        ------
        RequestError
            If there never was such an SAE here.
        """

        def change(data: Mapping[str, Any]) -> dict[str, Any] | None:
            own = _register(data)
            if sae not in own:
                raise RequestError(f"SAE {str(sae)!r} is not registered at KME {self._local}")
            if not own[sae].is_active:
                return None
            gone = replace(own[sae], removed_s=self._clock.now_s())
            return {"saes": _to_json({**own, sae: gone})}

        own = _register(await self._change(OWN_PATH, change))
        return own[sae].serials

    async def learn(self, peer: KmeId, told: SaeList) -> tuple[SaeId, ...]:
        """Keep what a peer tells of its SAEs; an older list than the one known is ignored.

        Returns
        -------
        tuple of SaeId
            Those that the peer tells of for the first time and that are
            somebody else's already: they do not count as its own.

        Raises
        ------
        RequestError
            If more SAEs came and went than can be kept apart.
        """
        path = f"{PEERS_PATH}/{peer}"
        fresh: set[SaeId] = set()

        def change(data: Mapping[str, Any]) -> dict[str, Any] | None:
            before, counter = _register(data), int(data.get("counter", 0))
            if told.counter < counter:
                _logger.warning("late list of SAEs ignored", extra={"peer": peer})
                return None
            after = self._pruned(_merged(before, told, self._clock.now_s()))
            if len(after) > _MAX_ENTRIES:
                raise RequestError("too many SAEs came and went: try again tomorrow")
            fresh.update(sae for sae in told.saes if sae not in before)
            is_same = after == before and told.counter == counter
            return None if is_same else {"counter": told.counter, "saes": _to_json(after)}

        await self._change(path, change)
        if not fresh:
            return ()
        peers = [KmeId(name) for name in await self._documents.names(PEERS_PATH)]
        disputed = (await self.population(peers)).disputed
        return tuple(sae for sae, kme in disputed if kme == peer and sae in fresh)

    async def forget(self, peer: KmeId) -> None:
        """Forget what a peer said: it is a peer no more, or starts from nothing again."""
        await self._documents.forget(f"{PEERS_PATH}/{peer}")

    def _pruned(self, register: Register) -> dict[SaeId, SaeEntry]:
        now_s = self._clock.now_s()
        return {sae: e for sae, e in register.items() if e.holds(now_s, self._hold_s)}

    async def _read(self, path: str) -> tuple[dict[SaeId, SaeEntry], int]:
        document = await self._documents.read(path)
        return ({}, 0) if document is None else (_register(document.data), document.version)

    async def _change(self, path: str, change: _Change) -> Mapping[str, Any]:
        """Write what `change` makes of a document (None: nothing), and return what is there."""
        for _ in range(_MAX_TRIES):
            found = await self._documents.read(path)
            data = {} if found is None else found.data
            changed = change(data)
            if changed is None:
                return data
            try:
                await self._documents.write(path, changed, 0 if found is None else found.version)
            except ConflictError:
                continue
            return changed
        raise ConflictError(f"{path} is being changed by others all the time: try again")


def _check_own(own: Register, sae: SaeId, now_s: float, hold_s: float, *, renews: bool) -> None:
    entry = own.get(sae)
    if renews:
        if entry is None or not entry.is_active:
            raise RequestError(f"SAE {str(sae)!r} is not registered: add it first")
    elif entry is not None and entry.is_active:
        raise RequestError(
            f"SAE {str(sae)!r} is registered already: RENEW=yes issues another certificate to it"
        )
    elif entry is not None and entry.removed_s is not None and entry.holds(now_s, hold_s):
        left_h = (entry.removed_s + hold_s - now_s) / 3600
        raise RequestError(
            f"SAE {str(sae)!r} was removed: its id is free in {left_h:.1f} h, when no key for it"
            " is left; take another id until then"
        )


def _merged(before: Register, told: SaeList, now_s: float) -> dict[SaeId, SaeEntry]:
    """Return what is known of a peer's SAEs after it told of them."""
    after = {sae: SaeEntry(now_s) for sae in told.saes}
    for sae, entry in before.items():
        if sae not in after:
            after[sae] = entry if not entry.is_active else replace(entry, removed_s=now_s)
        elif entry.is_active:
            after[sae] = entry
    return after


def _register(data: Mapping[str, Any]) -> dict[SaeId, SaeEntry]:
    saes = data.get("saes", {})
    if not isinstance(saes, Mapping):
        raise InputError("the registry of SAEs is not written as it should be")
    return {SaeId(sae): SaeEntry.from_json(entry) for sae, entry in saes.items()}


def _to_json(register: Register) -> dict[str, object]:
    return {str(sae): entry.to_json() for sae, entry in sorted(register.items())}
