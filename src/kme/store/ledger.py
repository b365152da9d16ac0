"""ledger - which granules of a block were drawn: one bit each, and how draws are judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from kme.errors import KeyNotFoundError, OverlapError
from kme.store.records import RESERVED_GRANULES, GranuleRange


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of a block's granules.

    Parameters
    ----------
    n_granules
        How many whole granules the block has.
    drawn
        Bit g (of weight ``2**g``) is set once granule g was drawn; never
        cleared again.
    """

    n_granules: int
    drawn: int

    @classmethod
    def fresh(cls, n_granules: int) -> Self:
        """Return the ledger of a new block: all free, the reserved granules drawn."""
        return cls(n_granules, (1 << RESERVED_GRANULES) - 1)

    @classmethod
    def from_bytes(cls, n_granules: int, bitmap: bytes) -> Self:
        """Read a bitmap: granule g is the bit of weight ``2**(g % 8)`` in byte ``g // 8``."""
        return cls(n_granules, int.from_bytes(bitmap, "little"))

    @property
    def is_full(self) -> bool:
        """Whether all granules were drawn."""
        return self.n_free == 0

    @property
    def n_free(self) -> int:
        """How many granules weren't drawn."""
        return self.n_granules - self.drawn.bit_count()

    def expired(self, upto: int) -> Self:
        """Return the ledger with all granules before this one drawn."""
        return replace(self, drawn=self.drawn | (1 << min(upto, self.n_granules)) - 1)

    def to_bytes(self) -> bytes:
        """Return the bitmap, one bit per granule, in whole bytes."""
        return self.drawn.to_bytes(-(-self.n_granules // 8), "little")


def draw_all(
    ledgers: Mapping[int, Ledger | None], ranges: Sequence[GranuleRange]
) -> dict[int, Ledger]:
    """Return the ledgers that a draw changes, as they are after it; all ranges or an error.

    An overlap is reported before anything that is merely missing: it is the
    one that raises an alarm.

    Parameters
    ----------
    ledgers
        From block number to ledger; absent or None if no draw is possible.
    ranges
        What is drawn together.

    Raises
    ------
    KeyNotFoundError
        If a block has no ledger, a range ends behind its block, or all
        granules of one were drawn before.
    OverlapError
        If some, but not all, granules of a range were drawn before, or two of
        the ranges overlap.
    """
    asked: dict[int, int] = {}
    is_missing = False
    for wanted in ranges:
        ledger = ledgers.get(wanted.block_number)
        if ledger is None or wanted.stop > ledger.n_granules:
            is_missing = True
            continue
        mask = (1 << wanted.stop) - (1 << wanted.start)
        others = asked.get(wanted.block_number, 0)
        before = ledger.drawn & mask
        if others & mask or before not in {0, mask}:
            raise OverlapError(
                "part of a key was given out under another key_ID",
                block_number=wanted.block_number,
                start=wanted.start,
                stop=wanted.stop,
            )
        is_missing |= before == mask
        asked[wanted.block_number] = others | mask
    if is_missing:
        raise KeyNotFoundError("a key is not here, or was given out before")
    return {number: _marked(ledgers[number], mask) for number, mask in asked.items()}


def expire_all(
    ledgers: Mapping[int, Ledger], open_from: Mapping[int, int]
) -> tuple[dict[int, Ledger], int]:
    """Return the ledgers that an expiry changes, as they are after it.

    Parameters
    ----------
    ledgers
        From block number to ledger: what may be touched.
    open_from
        From block number to the first granule that doesn't expire; blocks
        that are not named expire as a whole.

    Returns
    -------
    tuple of dict and int
        The ledgers, and how many granules expired that were not drawn.
    """
    after = {
        number: ledger.expired(open_from.get(number, ledger.n_granules))
        for number, ledger in ledgers.items()
    }
    changed = {number: ledger for number, ledger in after.items() if ledger != ledgers[number]}
    n_expired = sum(ledgers[number].n_free - ledger.n_free for number, ledger in changed.items())
    return changed, n_expired


def _marked(ledger: Ledger | None, mask: int) -> Ledger:
    assert ledger is not None
    return replace(ledger, drawn=ledger.drawn | mask)
