"""ledgers - a block's ledger as a document that tells an operator all but the bytes."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kme.errors import IntegrityError
from kme.ids import KmeId
from kme.store.ledger import Ledger
from kme.store.vault.cell import DocumentStore
from kme.store.vault.keydocs import block_path


def ledger_path(peer: KmeId, number: int) -> str:
    """Return where a block's ledger lies."""
    return f"ledgers/{peer}/{number}"


@dataclass(frozen=True, slots=True)
class KeptLedger:
    """A ledger, what else its document says, and the version to replace."""

    ledger: Ledger
    about: Mapping[str, Any]
    version: int

    @property
    def is_full(self) -> bool:
        """Whether all granules were drawn."""
        return self.ledger.is_full

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {
            **self.about,
            "granules": self.ledger.n_granules,
            "drawn": base64.b64encode(self.ledger.to_bytes()).decode("ascii"),
        }

    def ended_before(self, open_from: int | None) -> "KeptLedger":
        """Return it with all granules before this one drawn, all if None; not written yet."""
        upto = self.ledger.n_granules if open_from is None else open_from
        return self.marked(self.ledger.expired(upto))

    def marked(self, ledger: Ledger) -> "KeptLedger":
        """Return it with another ledger, not written yet."""
        return replace(self, ledger=ledger)


async def forget_block(documents: DocumentStore, peer: KmeId, number: int) -> None:
    """Remove all that is left of a block, so that its paths are free again."""
    await documents.forget(block_path(peer, number))
    await documents.forget(ledger_path(peer, number))


async def read_ledger(documents: DocumentStore, peer: KmeId, number: int) -> KeptLedger | None:
    """Read a ledger; None if there is none.

    Raises
    ------
    IntegrityError
        If the document is no ledger.
    """
    path = ledger_path(peer, number)
    found = await documents.read(path)
    if found is None or not found.data:
        return None
    about = dict(found.data)
    try:
        n_granules = int(about.pop("granules"))
        ledger = Ledger.from_bytes(n_granules, base64.b64decode(about.pop("drawn"), validate=True))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: this is no ledger") from error
    return KeptLedger(ledger, about, found.version)
