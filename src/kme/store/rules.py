"""rules - what every backend checks before it writes, so that all of them refuse alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from kme.errors import InputError, PairingError
from kme.ids import KeyId, KmeId
from kme.secret import Secret
from kme.store.records import (
    MAX_BLOCK_BYTES,
    MAX_EXPIRIES,
    MAX_OPEN_FROM,
    RESERVED_BYTES,
    Claim,
    Expiry,
    Frontier,
    HeartbeatRecord,
    PairingRecord,
    Proposal,
    Settlement,
    Verdict,
)
from kme.units import GRANULE_BYTES

MAX_NUMBER: Final = (1 << KeyId.NUMBER_BITS) - 1
"""The highest block number that a key_ID can carry."""

MAX_STEP: Final = 1 << 20
"""No proposal has a number that is further above the highest one known."""

MAX_PART: Final = (1 << 16) - 1
"""The highest part that a final key may be split into."""

_MAX_LIFETIME_S: Final = 1 << 32


def check_parts(parts: Sequence[Secret]) -> None:
    """Return if one epoch's final key is cut as `ingest` wants it.

    Raises
    ------
    InputError
        If there is no part, an empty one or one above `MAX_BLOCK_BYTES`.
    """
    if not 1 <= len(parts) <= MAX_PART + 1 or not all(
        1 <= len(part) <= MAX_BLOCK_BYTES for part in parts
    ):
        raise InputError(f"a final key is stored in parts of 1 to {MAX_BLOCK_BYTES} bytes")


def check_wish(min_granules: int, want_granules: int) -> None:
    """Return if a claim asks for something.

    Raises
    ------
    InputError
        If not ``1 <= min_granules <= want_granules``.
    """
    if not 1 <= min_granules <= want_granules:
        raise InputError(f"cannot claim {min_granules} to {want_granules} granules")


def check_untouched(claim: Claim, untouched_from: int) -> None:
    """Return if a claim may be given back from this granule on.

    Raises
    ------
    InputError
        If the granule is not in the claim (its end counts: all was used).
    """
    if not claim.reserved.start <= untouched_from <= claim.reserved.stop:
        raise InputError(f"granule {untouched_from} is not in the claim that is given back")


def check_number(number: int) -> None:
    """Return if a key_ID can carry this block number.

    Raises
    ------
    PairingError
        If not.
    """
    if not 0 <= number <= MAX_NUMBER:
        raise PairingError(f"block number {number} is not in 0..{MAX_NUMBER}")


def check_step(record: PairingRecord, number: int) -> None:
    """Return if the number of a leader's proposal may come after those that were seen.

    What is settled is walked through when it expires: a leader that leaps would
    keep this KME busy for ever.

    Raises
    ------
    PairingError
        If it is no block number, or more than `MAX_STEP` above the highest one.
    """
    check_number(number)
    if number > record.highest + MAX_STEP:
        raise PairingError(
            f"block {number} cannot be proposed, it is more than {MAX_STEP} above"
            f" {record.highest}, the highest number known here"
        )


def opens(record: PairingRecord, proposal: Proposal) -> bool:
    """Return whether a proposal is to be written; False if it is the open one already.

    Raises
    ------
    PairingError
        If its number isn't above `highest`, or another one is open.
    """
    if record.open_proposal == proposal:
        return False
    _check_proposal(proposal)
    if record.open_proposal is not None:
        raise PairingError(
            f"block {record.open_proposal.number} is proposed and not settled,"
            f" block {proposal.number} cannot be proposed before it is"
        )
    if proposal.number <= record.highest:
        raise PairingError(
            f"block {proposal.number} cannot be proposed, numbers up to {record.highest} are taken"
        )
    return True


def check_none_gone(proposal: Proposal, *, is_any_gone: bool) -> None:
    """Return if nothing that a proposal lists came in and waits no longer.

    The leader reads what waits, then proposes it. What was burnt in between
    can make no block any more, and a proposal once written must be settled.

    Raises
    ------
    PairingError
        If something is gone.
    """
    if is_any_gone:
        raise PairingError(
            f"block {proposal.number} cannot be proposed, what it lists was burnt meanwhile"
        )


def opened(record: PairingRecord, proposal: Proposal) -> PairingRecord:
    """Return the record after a proposal was opened."""
    return replace(record, highest=proposal.number, open_proposal=proposal)


def settles(record: PairingRecord, settlement: Settlement, key: Secret | None) -> bool:
    """Return whether a settlement is to be written; False if it is the last one already.

    Raises
    ------
    PairingError
        If its number isn't above the last one's, an open proposal of that
        number says something else, or `key` doesn't go with the verdict.
    """
    if record.last == settlement:
        return False
    proposal = settlement.proposal
    _check_proposal(proposal)
    if record.last is not None and proposal.number <= record.last.proposal.number:
        raise PairingError(
            f"block {proposal.number} cannot be settled,"
            f" block {record.last.proposal.number} was settled already"
        )
    mine = record.open_proposal
    if mine is not None and mine.number == proposal.number and mine != proposal:
        raise PairingError(f"block {proposal.number} was proposed with another content")
    _check_key(settlement, key)
    return True


def settled(record: PairingRecord, settlement: Settlement) -> PairingRecord:
    """Return the record after a settlement."""
    number = settlement.proposal.number
    is_open = record.open_proposal is not None and record.open_proposal.number != number
    return replace(
        record,
        highest=max(record.highest, number),
        open_proposal=record.open_proposal if is_open else None,
        last=settlement,
    )


def raised(
    record: PairingRecord, peer_settled: int = 0, floor_allocate: int = 0, floor_draw: int = 0
) -> PairingRecord:
    """Return the record after its marks were raised; none of them ever falls.

    Raises
    ------
    PairingError
        If one is no block number.
    """
    for number in (peer_settled, floor_allocate, floor_draw):
        check_number(number)
    return replace(
        record,
        peer_settled=max(record.peer_settled, peer_settled),
        floor_allocate=max(record.floor_allocate, floor_allocate),
        floor_draw=max(record.floor_draw, floor_draw),
    )


def is_usable(record: PairingRecord, number: int) -> bool:
    """Return whether an own block of this number may be allocated from."""
    return record.floor_allocate < number <= record.peer_settled


def shut_by(before: PairingRecord, after: PairingRecord) -> tuple[int, int]:
    """Return which numbers stopped to be usable when marks rose: above the first, to the second."""
    return before.floor_allocate, min(before.peer_settled, after.floor_allocate)


def opened_by(before: PairingRecord, after: PairingRecord) -> tuple[int, int]:
    """Return which numbers became usable when marks rose: above the first, to the second."""
    return max(before.peer_settled, after.floor_allocate), after.peer_settled


def is_drawn_here(kme: KmeId, peer: KmeId, owner: KmeId) -> bool:
    """Return whether keys of a pair's block are drawn at this KME, so that it has a ledger here.

    Those of our own blocks are drawn at the peer, which alone knows what became of them.
    """
    return owner != kme or peer == kme


def frontier(open_from: Mapping[int, int], record: PairingRecord) -> Frontier:
    """Return the frontier of the own blocks of a pair.

    Parameters
    ----------
    open_from
        From number to the first granule that may still be allocated, of the
        blocks of which something may: all, or one more than have a name.
    record
        The pair's.
    """
    if record.last is None:
        return Frontier()
    numbers = [*sorted(open_from), record.last.proposal.number + 1]
    named = numbers[: min(MAX_OPEN_FROM, len(open_from))]
    return Frontier(numbers[len(named)], {number: open_from[number] for number in named})


def notes(waiting: Sequence[Expiry], expiry: Expiry) -> bool:
    """Return whether an expiry is to be noted; False if it is the last one that waits.

    Raises
    ------
    InputError
        If `MAX_EXPIRIES` wait already, it is due before the last of them, or
        it names a time, block or granule that cannot be.
    """
    if waiting and waiting[-1] == expiry:
        return False
    frontier = expiry.frontier
    last_granule = max(frontier.open_from.values(), default=0)
    if frontier.number > MAX_NUMBER + 1 or last_granule > MAX_BLOCK_BYTES // GRANULE_BYTES:
        raise InputError("an expiry names a block or granule that no key_ID can")
    if not math.isfinite(expiry.due_unix_s):
        raise InputError(f"an expiry cannot be due at {expiry.due_unix_s}")
    if len(waiting) >= MAX_EXPIRIES:
        raise InputError(f"{MAX_EXPIRIES} expiries wait: carry out what is due, then note more")
    if waiting and expiry.due_unix_s < waiting[-1].due_unix_s:
        raise InputError("an expiry cannot be due before the one that was noted last")
    return True


def begun(record: HeartbeatRecord, nonce: str, accepted: str | None) -> HeartbeatRecord:
    """Return the record with a heartbeat under way: the one that is pending, else a new one.

    What is pending ends if it is the one that the peer `accepted`.
    """
    if record.pending is None:
        return replace(record, pending=nonce)
    if record.pending != accepted:
        return record
    return replace(record, pending=nonce, acknowledged=accepted)


def follows(record: HeartbeatRecord, nonce: str, acknowledged: str | None) -> bool:
    """Return whether a heartbeat of the peer is the one heard last, or the next one."""
    return record.heard in (nonce, acknowledged)


def heard(record: HeartbeatRecord, nonce: str, acknowledged: str | None) -> HeartbeatRecord:
    """Return the record after a heartbeat of the peer; one that does not follow changes nothing."""
    return replace(record, heard=nonce) if follows(record, nonce, acknowledged) else record


def _check_proposal(proposal: Proposal) -> None:
    check_number(proposal.number)
    if proposal.lifetime_s > _MAX_LIFETIME_S:
        raise PairingError(f"block {proposal.number} has a lifetime above {_MAX_LIFETIME_S} s")
    if not all(0 <= entry.part <= MAX_PART for entry in proposal.entries):
        raise PairingError(f"block {proposal.number} lists a part of a final key that cannot be")


def _check_key(settlement: Settlement, key: Secret | None) -> None:
    number = settlement.proposal.number
    if settlement.verdict is not Verdict.EQUAL:
        if key is not None:
            raise PairingError(f"block {number} is {settlement.verdict} and can have no key")
    elif key is None or not RESERVED_BYTES <= len(key) <= MAX_BLOCK_BYTES:
        raise PairingError(
            f"block {number} is equal and needs {RESERVED_BYTES} to {MAX_BLOCK_BYTES} bytes of key"
        )
