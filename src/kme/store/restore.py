"""restore - what both KMEs agree on after a restore in, records as they are after it out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kme.errors import InputError, PairingError
from kme.ids import Epoch, SourceId
from kme.store import rules
from kme.store.records import HeartbeatRecord, PairingRecord, Settlement, Verdict


@dataclass(frozen=True, slots=True)
class RestoreAgreement:
    """What the restored KME has to write about one peer, after that one has accepted it.

    Parameters
    ----------
    incarnation
        Which restore it is about: the one that the store is marked with.
    nonce
        What the peer now takes for the last heartbeat that it heard from here.
    heard
        What is to be taken for the last heartbeat of the peer: its next one
        follows. None if it never began one.
    highest
        The highest block number that either side has seen.
    epochs
        Of each source, up to which epoch nothing comes in any more.
    """

    incarnation: str
    nonce: str
    heard: str | None
    highest: int
    epochs: Mapping[SourceId, Epoch] = field(default_factory=dict)


def check_incarnation(incarnation: str) -> None:
    """Return if this is the name of a restore.

    Raises
    ------
    InputError
        If it isn't 32 lower-case hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", incarnation):
        raise InputError("a restore is named by 32 lower-case hexadecimal digits")


def due(marked: str | None, agreed: str | None) -> str | None:
    """Return which restore has to be agreed with a peer; None if none has."""
    return None if marked == agreed else marked


def is_due(marked: str | None, agreed: str | None, agreement: RestoreAgreement) -> bool:
    """Return whether an agreement is to be written; False if it is written already.

    Raises
    ------
    PairingError
        If it is about another restore than the store is marked with, or its
        highest number is none.
    """
    if agreement.incarnation != marked:
        raise PairingError("this store is marked with another restore than was agreed on")
    rules.check_number(agreement.highest)
    return agreed != marked


def void_of(record: PairingRecord) -> Settlement | None:
    """Return how an open proposal ends: what it lists is burnt."""
    proposal = record.open_proposal
    return None if proposal is None else Settlement(proposal, Verdict.VOID)


def highest_of(record: PairingRecord, highest: int) -> int:
    """Return the highest number that either side has seen.

    Raises
    ------
    PairingError
        If what the other side says is no block number.
    """
    rules.check_number(highest)
    return max(record.highest, highest)


def heartbeat_agreed(agreement: RestoreAgreement) -> HeartbeatRecord:
    """Return the nonces of the restored KME, as if its last heartbeat was accepted just now."""
    return HeartbeatRecord(None, agreement.nonce, agreement.heard)


def heartbeat_accepted(record: HeartbeatRecord, nonce: str) -> HeartbeatRecord:
    """Return the nonces of the other KME: it takes this one for the last that it heard."""
    return replace(record, heard=nonce)
