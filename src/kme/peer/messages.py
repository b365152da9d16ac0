"""messages - the JSON bodies of the peer interface, the only place with its wire names.

Every field is checked strictly and bounded, and unknown ones are refused: both
ends are of one kind, and what doesn't fit is not to be guessed at.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from kme.errors import InputError
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.pairing.compare import COMPARE_TAG_BYTES, MAX_COMPARED
from kme.pairing.pair import MAX_ENTRIES, MAX_LIFETIME_S
from kme.pairing.ports import (
    BlockTag,
    Comparison,
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    PairStock,
)
from kme.pairing.tags import TAG_BYTES
from kme.registry.records import MAX_SAES, SaeList
from kme.store.records import (
    MAX_BLOCK_BYTES,
    MAX_OPEN_FROM,
    RESERVED_GRANULES,
    FinalKeyRef,
    Frontier,
    Proposal,
    SourceClass,
    Verdict,
)
from kme.supply.grants import MAX_DELIVERED_KEYS, MAX_SLAVES, Delivery, MaskedKey
from kme.units import GRANULE_BYTES

MAX_BODY_BYTES: Final = 256 * 1024
"""No body of this interface is longer, in either direction."""

HEARTBEAT_PATH: Final = "/kme/v1/pairs/{kme}/heartbeat"
HELD_PATH: Final = "/kme/v1/pairs/{kme}/held"
PROPOSAL_PATH: Final = "/kme/v1/pairs/{kme}/proposal"
GRANTS_PATH: Final = "/kme/v1/pairs/{kme}/grants"
SAES_PATH: Final = "/kme/v1/pairs/{kme}/saes"
STOCK_PATH: Final = "/kme/v1/pairs/{kme}/stock"
COMPARE_PATH: Final = "/kme/v1/pairs/{kme}/compare"
CLEAR_PATH: Final = "/kme/v1/pairs/{kme}/clear"
"""Paths name the KME that is asked; who asks stands in its certificate."""

_Name = Annotated[str, Field(max_length=63)]
_Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_BlockTag = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * COMPARE_TAG_BYTES}}}$")]
_Tag = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * TAG_BYTES}}}$")]
_Number = Annotated[int, Field(ge=0, lt=1 << KeyId.NUMBER_BITS)]
_Sae = Annotated[str, Field(max_length=128)]
_Uuid = Annotated[str, Field(min_length=36, max_length=36)]
_MaskedBytes = Annotated[str, Field(max_length=-(-KeyId.MAX_BYTES // 3) * 4)]
_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_Granule = Annotated[int, Field(ge=RESERVED_GRANULES, lt=MAX_BLOCK_BYTES // GRANULE_BYTES)]


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


class FrontierMessage(Message):
    """What the sender will never allocate from any more.

    `number` may be the one behind the highest that there is; `open_from` lists
    block numbers with the first granule that may still be allocated.
    """

    number: Annotated[int, Field(ge=0, le=1 << KeyId.NUMBER_BITS)]
    open_from: Annotated[list[tuple[_Number, _Granule]], Field(max_length=MAX_OPEN_FROM)]

    @classmethod
    def of(cls, frontier: Frontier) -> Self:
        """Write a frontier."""
        return cls(number=frontier.number, open_from=sorted(frontier.open_from.items()))

    def to_frontier(self) -> Frontier:
        """Read it.

        Raises
        ------
        InputError
            If a block stands there twice, or one that isn't below `number`.
        """
        open_from = dict(self.open_from)
        if len(open_from) != len(self.open_from):
            raise InputError("a frontier names a block twice")
        return Frontier(self.number, open_from)


class HeartbeatMessage(Message):
    """A heartbeat."""

    nonce: _Token
    acknowledged: _Token | None
    challenge: _Token | None
    settled: _Number
    free_bytes: _Count
    frontier: FrontierMessage

    @classmethod
    def of(cls, heartbeat: Heartbeat) -> Self:
        """Write a heartbeat."""
        return cls(
            nonce=heartbeat.nonce,
            acknowledged=heartbeat.acknowledged,
            challenge=heartbeat.challenge,
            settled=heartbeat.settled,
            free_bytes=heartbeat.free_bytes,
            frontier=FrontierMessage.of(heartbeat.frontier),
        )

    def to_heartbeat(self) -> Heartbeat:
        """Read it.

        Raises
        ------
        InputError
            If its frontier is none.
        """
        return Heartbeat(
            self.nonce,
            self.acknowledged,
            self.challenge,
            self.settled,
            self.free_bytes,
            self.frontier.to_frontier(),
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


class SaesMessage(Message):
    """Which SAEs live at the KME that sends it: all of them."""

    counter: _Count
    saes: Annotated[list[_Sae], Field(max_length=MAX_SAES)]

    @classmethod
    def of(cls, told: SaeList) -> Self:
        """Write a list."""
        return cls(counter=told.counter, saes=[str(sae) for sae in told.saes])

    def to_list(self) -> SaeList:
        """Read it.

        Raises
        ------
        IdentifierError
            If a name is not one.
        InputError
            If a name stands there twice.
        """
        saes = tuple(SaeId(name) for name in self.saes)
        if len(set(saes)) != len(saes):
            raise InputError("an SAE stands twice in the list of a KME's SAEs")
        return SaeList(self.counter, saes)


class MaskedKeyMessage(Message):
    """A key under its pad."""

    key_id: _Uuid
    pad_id: _Uuid
    masked: _MaskedBytes

    @classmethod
    def of(cls, key: MaskedKey) -> Self:
        """Write a key."""
        return cls(
            key_id=str(key.key_id),
            pad_id=str(key.pad_id),
            masked=base64.b64encode(key.masked).decode("ascii"),
        )

    def to_key(self) -> MaskedKey:
        """Read it.

        Raises
        ------
        InputError
            If an id is none, or the bytes don't fit.
        """
        try:
            masked = base64.b64decode(self.masked, validate=True)
        except ValueError:  # of base64, or not even ASCII
            raise InputError("a granted key is no base64 text") from None
        return MaskedKey(KeyId.parse(self.key_id), KeyId.parse(self.pad_id), masked)


class GrantsMessage(Message):
    """Keys of one master for further slaves."""

    master: _Sae
    slaves: Annotated[list[_Sae], Field(min_length=1, max_length=MAX_SLAVES)]
    keys: Annotated[list[MaskedKeyMessage], Field(min_length=1, max_length=MAX_DELIVERED_KEYS)]

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Write a delivery."""
        return cls(
            master=str(delivery.master),
            slaves=[str(slave) for slave in delivery.slaves],
            keys=[MaskedKeyMessage.of(key) for key in delivery.keys],
        )

    def to_delivery(self) -> Delivery:
        """Read it.

        Raises
        ------
        InputError
            If a name or an id is none, or something stands there twice.
        """
        return Delivery(
            SaeId(self.master),
            tuple(SaeId(name) for name in self.slaves),
            tuple(key.to_key() for key in self.keys),
        )


class DoneMessage(Message):
    """The answer to what needs none: it was done."""


class StockQuestionMessage(Message):
    """What is in stock, counted in keys of so many bytes."""

    key_bytes: Annotated[int, Field(ge=1, le=KeyId.MAX_BYTES)]


class StockMessage(Message):
    """What is in stock."""

    highest: _Number
    settled: _Number
    n_blocks: _Count
    n_bytes: _Count
    n_keys: _Count

    @classmethod
    def of(cls, stock: PairStock) -> Self:
        """Write what is in stock."""
        return cls(
            highest=stock.highest,
            settled=stock.settled,
            n_blocks=stock.n_blocks,
            n_bytes=stock.n_bytes,
            n_keys=stock.n_keys,
        )

    def to_stock(self) -> PairStock:
        """Read it."""
        return PairStock(self.highest, self.settled, self.n_blocks, self.n_bytes, self.n_keys)


class BlockTagMessage(Message):
    """What a block is, without its bytes."""

    number: _Number
    tag: _BlockTag


class CompareMessage(Message):
    """Blocks to be compared."""

    blocks: Annotated[list[BlockTagMessage], Field(max_length=MAX_COMPARED)]

    @classmethod
    def of(cls, tags: Sequence[BlockTag]) -> Self:
        """Write tags."""
        return cls(blocks=[BlockTagMessage(number=t.number, tag=t.tag.hex()) for t in tags])

    def to_tags(self) -> list[BlockTag]:
        """Read them."""
        return [BlockTag(block.number, bytes.fromhex(block.tag)) for block in self.blocks]


class ComparedMessage(Message):
    """What was found, in the order of the question."""

    found: Annotated[list[Comparison], Field(max_length=MAX_COMPARED)]


class ClearMessage(Message):
    """Up to which block keys are dropped, at least (question) or in fact (answer)."""

    highest: _Number


class ProblemMessage(Message):
    """Why a request was not answered."""

    code: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=4096)]
