"""pairs - a pair's record as a document: proposals and settlements, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from kme.errors import IntegrityError
from kme.ids import Epoch, KmeId, SourceId
from kme.store.records import (
    FinalKeyRef,
    PairingRecord,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)


@dataclass(slots=True)
class PairState:
    """What a pair's document says.

    Parameters
    ----------
    record
        Its members `peer_settled` and `floor_allocate` are 0 here: the room
        document has them.
    is_clean
        Whether all that follows from the last settlement is surely done.
    n_fences
        Counts writes that only make another process's settlement fail.
    """

    record: PairingRecord
    is_clean: bool = True
    n_fences: int = 0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document.

        Raises
        ------
        IntegrityError
            If it is none of a pair.
        """
        try:
            last = data.get("last")
            record = PairingRecord(
                highest=int(data.get("highest", 0)),
                open_proposal=_proposal(data.get("open")),
                last=last and Settlement(_listed(last["proposal"]), Verdict(last["verdict"])),
                floor_draw=int(data.get("floor_draw", 0)),
            )
            return cls(record, bool(data.get("clean", True)), int(data.get("fences", 0)))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("pairs: a pair's document cannot be read") from error

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        record = self.record
        return {
            "highest": record.highest,
            "open": record.open_proposal and _told(record.open_proposal),
            "last": record.last
            and {"proposal": _told(record.last.proposal), "verdict": record.last.verdict.value},
            "floor_draw": record.floor_draw,
            "clean": self.is_clean,
            "fences": self.n_fences,
        }

    @property
    def settled(self) -> int:
        """The highest number that was settled; 0 before the first."""
        return 0 if self.record.last is None else self.record.last.proposal.number

    @property
    def unclean(self) -> frozenset[FinalKeyRef]:
        """The entries that were settled and may still be in the inbox."""
        last = self.record.last
        return frozenset() if self.is_clean or last is None else frozenset(last.proposal.entries)

    @property
    def listed(self) -> frozenset[FinalKeyRef]:
        """The entries of the open proposal."""
        mine = self.record.open_proposal
        return frozenset() if mine is None else frozenset(mine.entries)

    def fenced(self) -> "PairState":
        """Return it changed in nothing that counts."""
        return replace(self, n_fences=self.n_fences + 1)


def _told(proposal: Proposal) -> dict[str, Any]:
    return {
        "number": proposal.number,
        "owner": proposal.owner,
        "source": proposal.source,
        "entries": [[entry.epoch.file_name, entry.part] for entry in proposal.entries],
        "lifetime_s": proposal.lifetime_s,
        "source_class": proposal.source_class.value,
        "tag": proposal.tag.hex(),
    }


def _proposal(data: Mapping[str, Any] | None) -> Proposal | None:
    return None if data is None else _listed(data)


def _listed(data: Mapping[str, Any]) -> Proposal:
    source = SourceId(data["source"])
    return Proposal(
        number=int(data["number"]),
        owner=KmeId(data["owner"]),
        entries=tuple(
            FinalKeyRef(source, Epoch(int(epoch, 16)), int(part)) for epoch, part in data["entries"]
        ),
        lifetime_s=int(data["lifetime_s"]),
        source_class=SourceClass(data["source_class"]),
        tag=bytes.fromhex(data["tag"]),
    )
