"""witness - sees every record that is written and every key that is handed out; fails at once."""

from collections.abc import Callable, Sequence
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
    given_s
        When, in true seconds.
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
    given_s: float = 0.0
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
    lifetime_s
        How long a key may be drawn after it was given, in seconds.
    heeds_at_once
        Whether a KME gives no key of a block that both have given up; several
        workers need a moment to learn of it.
    """

    def __init__(
        self, kmes: tuple[KmeId, KmeId], lifetime_s: float, *, heeds_at_once: bool
    ) -> None:
        self._lifetime_s = lifetime_s
        self._heeds_at_once = heeds_at_once
        self._other = {kmes[0]: kmes[1], kmes[1]: kmes[0]}
        self._records = {kme: PairingRecord() for kme in kmes}
        self._settled = dict.fromkeys(kmes, 0)
        self._proposals: dict[int, Proposal] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._number_of: dict[FinalKeyRef, int] = {}
        self._id_at: dict[tuple[int, int], KeyId] = {}
        self._is_closed: dict[KmeId, Callable[[], bool]] = {}
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
            record.peer_settled <= max(theirs, record.floor_allocate, self._given_up(record)),
            f"{kme} may allocate up to block {record.peer_settled}, the other KME has {theirs}",
        )

    def _given_up(self, record: PairingRecord) -> int:
        """Return a number that only one KME settled, as void, because of a restore."""
        last = record.last if self._is_closed else None
        return last.proposal.number if last and last.verdict is Verdict.VOID else 0

    def saw_restore(self, kme: KmeId, record: PairingRecord, is_closed: Callable[[], bool]) -> None:
        """Take that a KME is back where it was once; it hands out nothing while it is closed."""
        self._records[kme] = record
        self._is_closed[kme] = is_closed

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
        # Who gives up what is open after a restore may not know that it was settled.
        is_given_up = bool(self._is_closed) and settlement.verdict is Verdict.VOID
        require(known is settlement.verdict or is_given_up, f"block {number} has two verdicts")

    # Keys

    def saw_cut(self, home: KmeId, keys: Sequence[Key]) -> None:
        """Take keys that a KME made, whether or not the answer arrives."""
        require(self._may_serve(home), f"{home} cuts keys after an old backup was restored")
        given_up = self._records[self._other[home]].floor_draw if self._heeds_at_once else 0
        for key in keys:
            key_id = key.key_id
            require(
                key_id.block_number > given_up,
                f"{home} gives {_place(key_id)}, though both have given up that block",
            )
            stop = key_id.offset_granules + key_id.n_granules
            for granule in range(key_id.offset_granules, stop):
                other = self._id_at.setdefault((key_id.block_number, granule), key_id)
                require(
                    other is key_id,
                    f"granule {granule} of block {key_id.block_number} is under two key_IDs",
                )

    def saw_new(
        self, home: KmeId, master: SaeId, slave: SaeId, keys: Sequence[Key], now_s: float
    ) -> None:
        """Take keys that a master was given."""
        for key in keys:
            self.issued[key.key_id] = Issued(home, master, slave, key, now_s)

    def saw_drawn(self, home: KmeId, master: SaeId, caller: SaeId, keys: Sequence[Key]) -> None:
        """Take keys that a KME answered a slave with, whether or not the answer arrives."""
        require(self._may_serve(home), f"{home} hands out keys after a restore")
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

    def let_go(self, now_s: float) -> None:
        """Take what has expired by now, or is given up with its block, for burnt."""
        for issued in self.issued.values():
            # Only then: what expires raises the floor, too, on Vault.
            floor = self._records[self._other[issued.home]].floor_draw if self._is_closed else 0
            is_given_up = issued.key.key_id.block_number <= floor
            if is_given_up or now_s >= issued.given_s + self._lifetime_s:
                issued.may_be_burnt = True

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

    def _may_serve(self, kme: KmeId) -> bool:
        return kme not in self._is_closed or not self._is_closed[kme]()

    def is_known(self, key_id: KeyId) -> bool:
        """Return whether a master was given this key."""
        return key_id in self.issued


def _place(key_id: KeyId) -> str:
    return f"key {key_id.block_number}/{key_id.offset_granules}+{key_id.n_bytes}"
