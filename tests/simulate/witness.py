"""witness - sees every record that is written and every key that is handed out; fails at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from kme.ids import KeyId, KmeId, SaeId
from kme.store.records import FinalKeyRef, PairingRecord, Proposal, Settlement, Verdict
from kme.supply.ports import Key


class BrokenRuleError(AssertionError):
    """The system did what it must never do."""


@dataclass
class Issued:
    """A key that a master was given.

    Parameters
    ----------
    home
        The master's KME, which owns the block.
    master, slave
        Who was given it, and who may draw it.
    key
        The id and the bytes.
    is_drawn
        Whether its slave was given it, too.
    may_be_burnt
        Whether a draw was asked for whose outcome nobody knows, or it was
        burnt on purpose.
    n_asking
        How many requests for it are under way.
    """

    home: KmeId
    master: SaeId
    slave: SaeId
    key: Key
    is_drawn: bool = False
    may_be_burnt: bool = False
    n_asking: int = 0


def require(condition: object, broken: str) -> None:
    """Return if a rule is kept.

    Raises
    ------
    BrokenRuleError
        If not.
    """
    if not condition:
        raise BrokenRuleError(broken)


class Witness:
    """Remembers all of a run, outside of both KMEs.

    Parameters
    ----------
    kmes
        The two KMEs.
    """

    def __init__(self, kmes: tuple[KmeId, KmeId]) -> None:
        self._other = {kmes[0]: kmes[1], kmes[1]: kmes[0]}
        self._records = {kme: PairingRecord() for kme in kmes}
        self._settled = dict.fromkeys(kmes, 0)
        self._proposals: dict[int, Proposal] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._number_of: dict[FinalKeyRef, int] = {}
        self._id_at: dict[tuple[int, int], KeyId] = {}
        self._closed: set[KmeId] = set()
        self.issued: dict[KeyId, Issued] = {}
        self.n_drawn = 0

    @property
    def n_blocks(self) -> int:
        """How many blocks were found equal."""
        return sum(verdict is Verdict.EQUAL for verdict in self._verdicts.values())

    # Pairing

    def saw_record(self, kme: KmeId, record: PairingRecord) -> None:
        """Take what a KME has just written about the pair."""
        before, self._records[kme] = self._records[kme], record
        if record.open_proposal is not None:
            self._saw_proposal(record.open_proposal)
        if record.last is not None:
            self._saw_settlement(record.last)
            number = record.last.proposal.number
            self._settled[kme] = max(self._settled[kme], number)
        for name in ("highest", "peer_settled", "floor_allocate", "floor_draw"):
            old, new = getattr(before, name), getattr(record, name)
            require(old <= new, f"{kme}: {name} fell from {old} to {new}")
        theirs = self._settled[self._other[kme]]
        require(
            record.peer_settled <= theirs,
            f"{kme} may allocate up to block {record.peer_settled}, the other KME has {theirs}",
        )

    def saw_restore(self, kme: KmeId, record: PairingRecord) -> None:
        """Take that a KME is back where it was once."""
        self._records[kme] = record
        self._closed.add(kme)

    def reopened(self, kme: KmeId) -> None:
        """Take that the pair agreed on what became of a restore."""
        self._closed.discard(kme)

    def _saw_proposal(self, proposal: Proposal) -> None:
        number = proposal.number
        known = self._proposals.setdefault(number, proposal)
        require(known == proposal, f"block {number} has two contents")
        for ref in proposal.entries:
            first = self._number_of.setdefault(ref, number)
            require(first == number, f"{ref} is in blocks {first} and {number}")

    def _saw_settlement(self, settlement: Settlement) -> None:
        self._saw_proposal(settlement.proposal)
        number = settlement.proposal.number
        known = self._verdicts.setdefault(number, settlement.verdict)
        require(known is settlement.verdict, f"block {number} has two verdicts")

    # Keys

    def saw_cut(self, home: KmeId, keys: Sequence[Key]) -> None:
        """Take keys that a KME made, whether or not the answer arrives."""
        require(home not in self._closed, f"{home} cuts keys after an old backup was restored")
        for key in keys:
            key_id = key.key_id
            stop = key_id.offset_granules + key_id.n_granules
            for granule in range(key_id.offset_granules, stop):
                other = self._id_at.setdefault((key_id.block_number, granule), key_id)
                require(
                    other is key_id,
                    f"granule {granule} of block {key_id.block_number} is under two key_IDs",
                )

    def saw_new(self, home: KmeId, master: SaeId, slave: SaeId, keys: Sequence[Key]) -> None:
        """Take keys that a master was given."""
        for key in keys:
            self.issued[key.key_id] = Issued(home, master, slave, key)

    def saw_drawn(self, home: KmeId, master: SaeId, caller: SaeId, keys: Sequence[Key]) -> None:
        """Take keys that a KME answered a slave with, whether or not the answer arrives."""
        require(home not in self._closed, f"{home} hands out keys after a restore")
        for key in keys:
            issued = self.issued.get(key.key_id)
            place = _place(key.key_id)
            if issued is None:
                raise BrokenRuleError(f"{caller} was given {place}, which no master was given")
            require(
                (issued.master, issued.slave) == (master, caller),
                f"{caller} was given {place}, which is for {issued.slave}",
            )
            require(not issued.is_drawn, f"{place} was delivered twice to {caller}")
            require(issued.key == key, f"{place} has other bytes for {caller} than for {master}")
            issued.is_drawn = True
            self.n_drawn += 1

    def was_refused(self, caller: SaeId, wanted: Sequence[Issued]) -> None:
        """Take that a slave was told that one of its keys is not there."""
        require(
            any(one.may_be_burnt or one.is_drawn or one.n_asking > 1 for one in wanted),
            f"{caller} is refused {', '.join(_place(one.key.key_id) for one in wanted)},"
            " which were given to a master and never drawn",
        )

    def waiting(self, slave: SaeId) -> list[Issued]:
        """List the keys that a slave could still draw, as far as is known."""
        return [
            issued
            for issued in self.issued.values()
            if issued.slave == slave and not issued.is_drawn
        ]

    def is_known(self, key_id: KeyId) -> bool:
        """Return whether a master was given this key."""
        return key_id in self.issued


def _place(key_id: KeyId) -> str:
    return f"key {key_id.block_number}/{key_id.offset_granules}+{key_id.n_bytes}"
