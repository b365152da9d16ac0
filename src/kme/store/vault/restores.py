"""restores - that the store is an older copy of itself, and what was agreed on with each peer.

The mark is a document of its own, which only the operator's token may write. What was
agreed stands beside the nonces of the pair's heartbeats, and is written with
them, last of all: until then the agreement isn't there, and all steps before it
may be taken again.
"""

from collections.abc import Mapping
from typing import Final

from kme.ids import Epoch, KmeId, SourceId
from kme.store import restore
from kme.store.records import HeartbeatRecord
from kme.store.restore import RestoreAgreement
from kme.store.vault.cell import Cell, Cells, DocumentStore
from kme.store.vault.inbox import Inbox
from kme.store.vault.notes import HeartbeatState, RestoreState
from kme.store.vault.pairing import Pairing

MARK_PATH: Final = "site/restore"


async def mark_restored(documents: DocumentStore, incarnation: str) -> None:
    """Note that the store in these documents was restored, by an operator's right alone.

    Raises
    ------
    InputError
        If `incarnation` isn't 32 hexadecimal digits.
    """
    restore.check_incarnation(incarnation)
    mark = Cell(documents, MARK_PATH, RestoreState)
    await mark.change(lambda state: state.mark(incarnation))


class Restores:
    """The steps of a restore that need no more than one kind of document.

    Parameters
    ----------
    documents
        Where all lies.
    pairing
        The pairs' documents.
    inbox
        What waits.
    heartbeats
        The pairs' nonces.
    """

    def __init__(
        self,
        documents: DocumentStore,
        pairing: Pairing,
        inbox: Inbox,
        heartbeats: Cells[HeartbeatState],
    ) -> None:
        self._mark = Cell(documents, MARK_PATH, RestoreState)
        self._pairing = pairing
        self._inbox = inbox
        self._heartbeats = heartbeats

    async def mark(self, incarnation: str) -> None:
        """Note that the store was restored."""
        await self._mark.change(lambda state: state.mark(incarnation))

    async def restoring(self, peer: KmeId) -> str | None:
        """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
        marked = (await self._mark.read()).incarnation
        return restore.due(marked, (await self._heartbeats[peer,].read()).agreed_incarnation)

    async def is_due(self, peer: KmeId, agreement: RestoreAgreement) -> bool:
        """Return whether an agreement is to be written; False if it is written already."""
        marked = (await self._mark.read()).incarnation
        agreed = (await self._heartbeats[peer,].read()).agreed_incarnation
        return restore.is_due(marked, agreed, agreement)

    async def give_up(self, peer: KmeId, highest: int) -> int:
        """End what is under way, burn what waits, and return the highest number of either side."""
        record = await self._pairing.pairing(peer)
        void = restore.void_of(record)
        if void is not None:
            await self._pairing.settle(peer, void, None)
        await self._pairing.burn_inbox(peer)
        highest = restore.highest_of(record, highest)
        await self._pairing.raise_marks(peer, highest=highest)
        return highest

    async def fill(self, peer: KmeId, epochs: Mapping[SourceId, Epoch]) -> None:
        """Let nothing come in or wait any more up to these epochs."""
        for source, epoch in sorted(epochs.items()):
            await self._inbox.give_up(peer, source, epoch)

    async def agree(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Go on from the nonces agreed on."""
        await self._heartbeats[peer,].change(lambda state: state.agree_restore(agreement))

    async def accept(self, peer: KmeId, nonce: str) -> HeartbeatRecord:
        """Take this nonce for the last heartbeat heard, and return all."""
        return await self._heartbeats[peer,].change(lambda state: state.accept_restore(nonce))
