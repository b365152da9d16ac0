"""draws - ranges of granules given out once: the ledgers of all blocks."""

from collections.abc import Sequence

from kme.ids import KmeId
from kme.store import rules
from kme.store.ledger import draw_all
from kme.store.records import GranuleRange
from kme.store.sqlite.transaction import Transaction


def draw(tx: Transaction, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
    """Mark ranges as drawn: all or none."""
    floor = tx.floor_draw(peer)
    numbers = {wanted.block_number for wanted in ranges}
    ledgers = {
        number: tx.ledger(peer, number) for number in numbers if floor < number <= rules.MAX_NUMBER
    }
    tx.keep_ledgers(peer, draw_all(ledgers, ranges))
