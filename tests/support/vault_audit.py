"""vault_audit - what two KMEs keep in their Vaults, held against what their SAEs were handed."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from histories import Given, History
from kme.ids import KeyId, KmeId
from kme.store.records import RESERVED_GRANULES
from kme.store.vault import VaultStore
from kme.store.vault.ledgers import read_ledger
from kme.units import GRANULE_BYTES
from kme.vault.documents import Documents
from store_audit import Audit, drawn_by

_MANY = 1000


@dataclass(frozen=True, slots=True)
class KeptInVault:
    """One KME's store, and the documents that it is made of.

    Parameters
    ----------
    kme, peer
        Whose, and the pair's other KME.
    documents, store
        The same in two views.
    """

    kme: KmeId
    peer: KmeId
    documents: Documents
    store: VaultStore

    async def is_at_rest(self) -> bool:
        """Whether no final key waits and no block is half made."""
        record = await self.store.pairing(self.peer)
        is_done = record.open_proposal is None and record.peer_settled == record.highest
        sources = await self.store.highest_epochs(self.peer)
        waiting = [await self.store.inbox(self.peer, source, None, 1) for source in sources]
        return is_done and not any(waiting)


async def audit(
    both: Sequence[KeptInVault], given: Mapping[KmeId, list[Given]], history: History, n_fed: int
) -> Audit:
    """Hold both stores against each other and against a history.

    Parameters
    ----------
    both
        Of two KMEs whose services are stopped; nothing waits to be paired.
    given
        What SAEs of each KME were given as masters.
    history
        All that SAEs asked and were told, since the stores were made.
    n_fed
        How many bytes of final key both KMEs ever took in.
    """
    one, other = both
    wrong = []
    records = [await kept.store.pairing(kept.peer) for kept in both]
    if records[0].last != records[1].last:
        wrong.append("the last settlements of both KMEs differ")
    n_claimed = n_fed // GRANULE_BYTES - records[0].highest * RESERVED_GRANULES
    for kept in both:
        wrong += [f"{kept.kme}: alarm {found}" for found in await kept.store.incidents(_MANY)]
        n_claimed -= (await kept.store.stock(kept.peer)).n_bytes // GRANULE_BYTES
    for owner, drawing in ((one, other), (other, one)):
        found = _blocks(owner, drawing, given[owner.kme], history, records[0].highest)
        wrong += [f"{drawing.kme}: {words}" async for words in found]
    n_given = sum(KeyId.parse(key.key_id).n_granules for key in history.given)
    return Audit(wrong, records[0].highest, n_claimed, n_given)


async def _blocks(
    owner: KeptInVault,
    drawing: KeptInVault,
    given: Sequence[Given],
    history: History,
    highest: int,
) -> AsyncIterator[str]:
    """Check the blocks of one owner: equal at both ends, gone only where they are used up."""
    surely, perhaps = drawn_by(given, history)
    frontier = await owner.store.frontier(owner.peer)
    promised: dict[int, int] = defaultdict(int)
    for key in given:
        key_id = KeyId.parse(key.key_id)
        promised[key_id.block_number] |= ((1 << key_id.n_granules) - 1) << key_id.offset_granules
    for number in range(1, highest + 1):
        there = await drawing.store.block(drawing.peer, number)
        if there is None:
            if promised[number] & ~(surely[number] | perhaps[number]):
                yield f"block {number} is gone, and keys of it were never drawn"
            continue
        if there.owner != owner.kme:
            continue
        own = await owner.store.block(owner.peer, number)
        if own is not None and own != there:
            yield f"block {number} differs"
        if own is None and not frontier.is_behind(number, there.n_granules - 1):
            yield f"block {number} is gone at its owner, and isn't used up"
        async for words in _ledger(drawing, number, surely[number], perhaps[number]):
            yield words


async def _ledger(
    drawing: KeptInVault, number: int, surely: int, perhaps: int
) -> AsyncIterator[str]:
    """Check that drawn is what was drawn, or perhaps was, and nothing else."""
    kept = await read_ledger(drawing.documents, drawing.peer, number)
    if kept is None:
        yield f"block {number} has no ledger"
        return
    drawn = int.from_bytes(kept.ledger.to_bytes(), "little")
    reserved = (1 << RESERVED_GRANULES) - 1
    if (surely | reserved) & ~drawn:
        yield f"block {number}: a key was handed out that the ledger doesn't show as drawn"
    if drawn & ~(surely | perhaps | reserved):
        yield f"block {number}: the ledger shows as drawn what nobody drew"
