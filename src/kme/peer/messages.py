"""messages - the JSON bodies of the peer interface, the only place with its wire names.

Every field is checked strictly and bounded, and unknown ones are refused: both
ends are of one kind, and what doesn't fit is not to be guessed at.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from kme.ids import Epoch, KeyId, KmeId, SourceId
from kme.pairing.pair import MAX_ENTRIES, MAX_LIFETIME_S
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, HeartbeatOutcome
from kme.pairing.tags import TAG_BYTES
from kme.store.records import FinalKeyRef, Proposal, SourceClass, Verdict

MAX_BODY_BYTES: Final = 256 * 1024
"""No body of this interface is longer, in either direction."""

HEARTBEAT_PATH: Final = "/kme/v1/pairs/{kme}/heartbeat"
HELD_PATH: Final = "/kme/v1/pairs/{kme}/held"
PROPOSAL_PATH: Final = "/kme/v1/pairs/{kme}/proposal"
"""Paths name the KME that is asked; who asks stands in its certificate."""

_Name = Annotated[str, Field(max_length=63)]
_Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Tag = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * TAG_BYTES}}}$")]
_Number = Annotated[int, Field(ge=0, lt=1 << KeyId.NUMBER_BITS)]
_Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class Message(BaseModel):
    """A body: frozen, strict, nothing unknown in it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FinalKeyMessage(Message):
    """Which final key."""

    source: _Name
    epoch: Annotated[int, Field(ge=0, lt=1 << Epoch.BITS)]
    part: Annotated[int, Field(ge=0, lt=1 << 32)]

    @classmethod
    def of(cls, ref: FinalKeyRef) -> Self:
        """Write a reference."""
        return cls(source=str(ref.source), epoch=ref.epoch.number, part=ref.part)

    def to_ref(self) -> FinalKeyRef:
        """Read it.

        Raises
        ------
        IdentifierError
            If the source's name is not one.
        """
        return FinalKeyRef(SourceId(self.source), Epoch(self.epoch), self.part)


class HeldMessage(Message):
    """Final keys, asked for or held."""

    final_keys: Annotated[list[FinalKeyMessage], Field(max_length=MAX_ENTRIES)]

    @classmethod
    def of(cls, refs: Sequence[FinalKeyRef]) -> Self:
        """Write references."""
        return cls(final_keys=[FinalKeyMessage.of(ref) for ref in refs])

    def to_refs(self) -> list[FinalKeyRef]:
        """Read them.

        Raises
        ------
        IdentifierError
            If a source's name is not one.
        """
        return [final_key.to_ref() for final_key in self.final_keys]


class ProposalMessage(Message):
    """A proposal."""

    number: Annotated[int, Field(ge=1, lt=1 << KeyId.NUMBER_BITS)]
    owner: _Name
    final_keys: Annotated[list[FinalKeyMessage], Field(min_length=1, max_length=MAX_ENTRIES)]
    lifetime_s: Annotated[int, Field(ge=1, le=MAX_LIFETIME_S)]
    source_class: SourceClass
    tag: _Tag

    @classmethod
    def of(cls, proposal: Proposal) -> Self:
        """Write a proposal."""
        return cls(
            number=proposal.number,
            owner=str(proposal.owner),
            final_keys=[FinalKeyMessage.of(ref) for ref in proposal.entries],
            lifetime_s=proposal.lifetime_s,
            source_class=proposal.source_class,
            tag=proposal.tag.hex(),
        )

    def to_proposal(self) -> Proposal:
        """Read it.

        Raises
        ------
        InputError
            If a name is not one, a final key is listed twice, or the list
            names more than one source.
        """
        return Proposal(
            self.number,
            KmeId(self.owner),
            tuple(final_key.to_ref() for final_key in self.final_keys),
            self.lifetime_s,
            self.source_class,
            bytes.fromhex(self.tag),
        )


class VerdictMessage(Message):
    """The answer to a proposal."""

    verdict: Verdict


class HeartbeatMessage(Message):
    """A heartbeat."""

    nonce: _Token
    acknowledged: _Token | None
    challenge: _Token | None
    settled: _Number
    free_bytes: _Count

    @classmethod
    def of(cls, heartbeat: Heartbeat) -> Self:
        """Write a heartbeat."""
        return cls(
            nonce=heartbeat.nonce,
            acknowledged=heartbeat.acknowledged,
            challenge=heartbeat.challenge,
            settled=heartbeat.settled,
            free_bytes=heartbeat.free_bytes,
        )

    def to_heartbeat(self) -> Heartbeat:
        """Read it."""
        return Heartbeat(
            self.nonce, self.acknowledged, self.challenge, self.settled, self.free_bytes
        )


class HeartbeatAnswerMessage(Message):
    """The answer to a heartbeat."""

    outcome: HeartbeatOutcome
    challenge: _Token | None
    settled: _Number
    free_bytes: _Count

    @classmethod
    def of(cls, answer: HeartbeatAnswer) -> Self:
        """Write an answer."""
        return cls(
            outcome=answer.outcome,
            challenge=answer.challenge,
            settled=answer.settled,
            free_bytes=answer.free_bytes,
        )

    def to_answer(self) -> HeartbeatAnswer:
        """Read it."""
        return HeartbeatAnswer(self.outcome, self.challenge, self.settled, self.free_bytes)


class ProblemMessage(Message):
    """Why a request was not answered."""

    code: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=4096)]
