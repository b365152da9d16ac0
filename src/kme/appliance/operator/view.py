"""view - documents in Vault in, what an operator may see of them out: counts, digests, states."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from kme.appliance.operator.settings import OperatorSettings
from kme.ids import KmeId
from kme.registry.records import SaeEntry
from kme.secret import Secret
from kme.store.vault import VaultStore
from kme.store.vault.ledgers import read_ledger
from kme.vault.documents import Documents
from kme.vault.session import VaultSession

MAX_LEDGERS: Final = 20
"""So many blocks of each pair are shown, the latest."""

MAX_INCIDENTS: Final = 20

_MANY: Final = 1 << 20


class Inspection:
    """What may be looked at with the role ``inspect``.

    Parameters
    ----------
    settings
        Which KME, which links.
    session
        With Vault, as ``inspect``.
    """

    def __init__(self, settings: OperatorSettings, session: VaultSession) -> None:
        self._settings = settings
        self._documents = Documents(session)
        # Without the key of digests: nothing that needs it is asked, nor allowed.
        self._store = VaultStore(settings.kme, self._documents, Secret(b""))

    async def take(self) -> dict[str, Any]:
        """Look at everything, and return it as JSON knows it.

        Raises
        ------
        StoreUnavailableError
            If Vault can't be asked.
        """
        try:
            return {
                "kme": str(self._settings.kme),
                "waiting": [await self._waiting(n) for n in range(len(self._settings.links))],
                "pairs": [await self._pair(peer) for peer in self._settings.peers],
                "blocks": [
                    block for peer in self._settings.peers for block in await self._blocks(peer)
                ],
                "incidents": [
                    {**asdict(i), "at": moment(i.unix_s)}
                    for i in await self._store.incidents(MAX_INCIDENTS)
                ],
            }
        finally:
            await self._store.close()

    async def _waiting(self, nth: int) -> dict[str, Any]:
        """Count the final keys of one source that wait to be paired."""
        link = self._settings.links[nth]
        entries = await self._store.inbox(link.peer, link.source, None, _MANY)
        return {
            "peer": str(link.peer),
            "source": str(link.source),
            "n_final_keys": len(entries),
            "n_bytes": sum(entry.n_bytes for entry in entries),
            "first_epoch": str(entries[0].ref.epoch) if entries else None,
            "last_epoch": str(entries[-1].ref.epoch) if entries else None,
        }

    async def _pair(self, peer: KmeId) -> dict[str, Any]:
        record, stock = await self._store.pairing(peer), await self._store.stock(peer)
        return {
            "peer": str(peer),
            "highest": record.highest,
            "settled": record.last.proposal.number if record.last else 0,
            "peer_settled": record.peer_settled,
            "floor_allocate": record.floor_allocate,
            "floor_draw": record.floor_draw,
            "own_blocks_with_room": sum(stock.blocks_by_room.values()),
            "own_bytes_free": stock.n_bytes,
            "n_ledgers": len(await self._documents.names(f"ledgers/{peer}")),
        }

    async def _blocks(self, peer: KmeId) -> list[dict[str, Any]]:
        """Show the latest blocks that are drawn from here, by their ledgers."""
        names = await self._documents.names(f"ledgers/{peer}")
        numbers = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
        found = []
        for number in numbers[:MAX_LEDGERS]:
            kept = await read_ledger(self._documents, peer, number)
            if kept is not None:
                about = {"peer": str(peer), "number": number, **kept.about}
                n_drawn = kept.ledger.drawn.bit_count()
                found.append(
                    {**about, "granules": kept.ledger.n_granules, "granules_drawn": n_drawn}
                )
        return found


def told_of_sae(name: str, entry: SaeEntry) -> dict[str, Any]:
    """Return one SAE as it is listed."""
    return {
        "sae": name,
        "since": moment(entry.since_s),
        "removed": None if entry.removed_s is None else moment(entry.removed_s),
        "certificates": len(entry.serials),
    }


def moment(unix_s: float) -> str:
    """Return a moment as people read it."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}Z"
