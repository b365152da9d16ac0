"""grants - keys granted to further slaves: pads drawn, then a document for each, taken in turn."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from kme.errors import ConflictError, IntegrityError
from kme.ids import KeyId, KmeId, SaeId
from kme.store.grants import Grant, KeptGrant, check_takes, fresh_of, pads_of
from kme.store.records import GranuleRange
from kme.store.vault.cell import MAX_TRIES, DocumentStore, all_of, busy
from kme.store.vault.grantdocs import FOLDER, grant_path, of_grant, to_grant
from kme.store.vault.keydocs import KeyDocs

_Place = tuple[str, int, str]
"""Peer, block number, key_ID: the order in which purging looks."""

_FIRST: Final[_Place] = ("", -1, "")


class Grants:
    """The grants of all pairs.

    Pads are drawn first: a bit of a ledger is never cleared, so a grant is
    created at most once, whatever is cut off, repeated or late.

    Parameters
    ----------
    documents
        Where all lies.
    keydocs
        How key bytes are written.
    """

    def __init__(self, documents: DocumentStore, keydocs: KeyDocs) -> None:
        self._documents = documents
        self._keydocs = keydocs
        self._purged_to = _FIRST

    async def keep(
        self,
        peer: KmeId,
        grants: Sequence[Grant],
        draw: Callable[[Sequence[GranuleRange]], Awaitable[None]],
    ) -> None:
        """Draw the pads of grants that are not kept yet, and keep them."""
        fresh = fresh_of(await self.find(peer, [grant.key_id for grant in grants]), grants)
        if pads := pads_of(fresh):
            await draw(pads)
        await all_of(*(self._create(peer, grant) for grant in fresh))

    async def _create(self, peer: KmeId, grant: Grant) -> None:
        data = of_grant(self._keydocs, peer, grant.key_id, KeptGrant.of(grant))
        try:
            await self._documents.write(grant_path(peer, grant.key_id), data, 0)
        except ConflictError:
            fresh_of(await self.find(peer, [grant.key_id]), [grant])  # refuses another one

    async def find(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return those that are here."""
        found = await all_of(*(self._read(peer, key_id) for key_id in key_ids))
        pairs = zip(key_ids, found, strict=True)
        return {key_id: kept for key_id, (kept, _) in pairs if kept is not None}

    async def _read(self, peer: KmeId, key_id: KeyId) -> tuple[KeptGrant | None, int]:
        found = await self._documents.read(grant_path(peer, key_id))
        if found is None:
            return None, 0
        return to_grant(self._keydocs, peer, key_id, found.data), found.version

    async def take(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave is given these: all of them, or none but by a race or an outage."""
        check_takes(await self.find(peer, key_ids), slave, key_ids)
        await all_of(*(self._take(peer, slave, key_id) for key_id in key_ids))

    async def _take(self, peer: KmeId, slave: SaeId, key_id: KeyId) -> None:
        path = grant_path(peer, key_id)
        for _ in range(MAX_TRIES):
            kept, version = await self._read(peer, key_id)
            check_takes({} if kept is None else {key_id: kept}, slave, [key_id])
            assert kept is not None
            data = of_grant(self._keydocs, peer, key_id, kept.without(slave))
            try:
                await self._documents.write(path, data, version)
            except ConflictError:
                continue
            return
        raise busy(path)

    async def purge(self, now_unix_s: float, limit: int) -> int:
        """Look at up to `limit` grants, behind those of the last call, and forget what is due."""
        places = await self._places(limit)
        self._purged_to = places[-1] if places else _FIRST
        done = await all_of(*(self._forget_if_due(place, now_unix_s) for place in places))
        return sum(done)

    async def burn(self, peer: KmeId) -> None:
        """Forget all grants of a peer."""
        for number in await self._folders(f"{FOLDER}/{peer}"):
            folder = f"{FOLDER}/{peer}/{number}"
            names = await self._documents.names(folder)
            await all_of(*(self._documents.forget(f"{folder}/{name}") for name in names))

    async def _places(self, limit: int) -> list[_Place]:
        """List the next grants; none when all were looked at, then it begins again."""
        places: list[_Place] = []
        for peer in await self._folders(FOLDER):
            numbers = [int(name) for name in await self._folders(f"{FOLDER}/{peer}")]
            for number in sorted(numbers):
                if (peer, number) < self._purged_to[:2] or len(places) >= limit:
                    continue
                names = await self._documents.names(f"{FOLDER}/{peer}/{number}")
                places += [(peer, number, name) for name in names]
                places = [place for place in places if place > self._purged_to][: max(limit, 0)]
        return places

    async def _folders(self, path: str) -> list[str]:
        names = await self._documents.names(path)
        return sorted(name.removesuffix("/") for name in names if name.endswith("/"))

    async def _forget_if_due(self, place: _Place, now_unix_s: float) -> bool:
        peer, number, name = place
        path = f"{FOLDER}/{peer}/{number}/{name}"
        found = await self._documents.read(path)
        if found is None:
            return False
        try:
            is_due = float(found.data["due_unix_s"]) <= now_unix_s
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: this is no grant") from error
        if is_due:
            await self._documents.forget(path)
        return is_due
