import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kme.errors import IdentifierError, InputError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.pair import MAX_ENTRIES, MAX_LIFETIME_S
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, HeartbeatOutcome
from kme.peer.messages import (
    MAX_BODY_BYTES,
    FinalKeyMessage,
    HeartbeatAnswerMessage,
    HeartbeatMessage,
    HeldMessage,
    ProposalMessage,
    VerdictMessage,
)
from kme.store.records import (
    MAX_OPEN_FROM,
    FinalKeyRef,
    Frontier,
    Proposal,
    SourceClass,
    Verdict,
)

tokens = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")
numbers = st.integers(0, 2**34 - 1)
counts = st.integers(0, 2**62 - 1)
sources = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True).map(SourceId)
places = st.tuples(st.integers(0, 2**32 - 1).map(Epoch), st.integers(0, 2**32 - 1))


@st.composite
def proposals(draw: st.DrawFn) -> Proposal:
    source = draw(sources)
    unique = draw(st.lists(places, min_size=1, max_size=5, unique=True))
    return Proposal(
        draw(st.integers(1, 2**34 - 1)),
        KmeId(draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))),
        tuple(FinalKeyRef(source, *place) for place in unique),
        draw(st.integers(1, MAX_LIFETIME_S)),
        draw(st.sampled_from(SourceClass)),
        draw(st.binary(min_size=16, max_size=16)),
    )


@settings(max_examples=50)
@given(proposals())
def test_a_proposal_survives_the_wire(proposal: Proposal) -> None:
    text = ProposalMessage.of(proposal).model_dump_json()
    assert ProposalMessage.model_validate_json(text).to_proposal() == proposal


@st.composite
def frontiers(draw: st.DrawFn) -> Frontier:
    number = draw(st.integers(0, 2**34))
    blocks, granules = st.integers(1, max(1, number - 1)), st.integers(8, 8191)
    max_size = MAX_OPEN_FROM if number > 1 else 0
    return Frontier(number, draw(st.dictionaries(blocks, granules, max_size=max_size)))


@settings(max_examples=50)
@given(tokens, st.none() | tokens, st.none() | tokens, numbers, counts, frontiers())
def test_a_heartbeat_survives_the_wire(
    nonce: str,
    acknowledged: str | None,
    challenge: str | None,
    settled: int,
    free_bytes: int,
    frontier: Frontier,
) -> None:
    heartbeat = Heartbeat(nonce, acknowledged, challenge, settled, free_bytes, frontier)
    text = HeartbeatMessage.of(heartbeat).model_dump_json()
    assert HeartbeatMessage.model_validate_json(text).to_heartbeat() == heartbeat


@settings(max_examples=50)
@given(st.sampled_from(HeartbeatOutcome), st.none() | tokens, numbers, counts)
def test_an_answer_to_a_heartbeat_survives_the_wire(
    outcome: HeartbeatOutcome, challenge: str | None, settled: int, free_bytes: int
) -> None:
    answer = HeartbeatAnswer(outcome, challenge, settled, free_bytes)
    text = HeartbeatAnswerMessage.of(answer).model_dump_json()
    assert HeartbeatAnswerMessage.model_validate_json(text).to_answer() == answer


@settings(max_examples=50)
@given(st.lists(st.builds(lambda s, p: FinalKeyRef(s, *p), sources, places), max_size=8))
def test_references_survive_the_wire(refs: list[FinalKeyRef]) -> None:
    text = HeldMessage.of(refs).model_dump_json()
    assert HeldMessage.model_validate_json(text).to_refs() == refs


def test_the_largest_message_fits_the_body() -> None:
    source = SourceId("s" * 32)
    refs = [FinalKeyRef(source, Epoch(2**32 - 1 - n), 2**32 - 1) for n in range(MAX_ENTRIES)]
    proposal = Proposal(
        2**34 - 1, KmeId("k" * 63), tuple(refs), MAX_LIFETIME_S, SourceClass.RANDOM, bytes(16)
    )
    for message in (ProposalMessage.of(proposal), HeldMessage.of(refs)):
        assert len(message.model_dump_json()) < MAX_BODY_BYTES


HEARTBEAT: dict[str, Any] = {
    "nonce": "0" * 32,
    "acknowledged": None,
    "challenge": None,
    "settled": 0,
    "free_bytes": 0,
    "frontier": {"number": 9, "open_from": [[3, 8], [8, 8191]]},
}
PROPOSAL: dict[str, Any] = {
    "number": 1,
    "owner": "kme-a",
    "final_keys": [{"source": "link", "epoch": 1, "part": 0}],
    "lifetime_s": 60,
    "source_class": "qkd",
    "tag": "0" * 32,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "0" * 31},
        {"nonce": "0" * 32 + "\n"},
        {"nonce": "G" * 32},
        {"nonce": None},
        {"challenge": ""},
        {"settled": -1},
        {"settled": 1 << 34},
        {"settled": "1"},
        {"settled": 1.0},
        {"settled": True},
        {"free_bytes": 1 << 62},
        {"frontier": None},
        {"frontier": {"number": 9}},
        {"frontier": {"number": -1, "open_from": []}},
        {"frontier": {"number": (1 << 34) + 1, "open_from": []}},
        {"frontier": {"number": 9, "open_from": {"3": 8}}},
        {"frontier": {"number": 9, "open_from": [[3]]}},
        {"frontier": {"number": 9, "open_from": [[3, 8, 9]]}},
        {"frontier": {"number": 9, "open_from": [[3, 7]]}},
        {"frontier": {"number": 9, "open_from": [[3, 8192]]}},
        {"frontier": {"number": 9, "open_from": [[3, 8.0]]}},
        {"frontier": {"number": 99, "open_from": [[n, 8] for n in range(1, 34)]}},
        {"more": 1},
    ],
)
def test_a_heartbeat_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    HeartbeatMessage.model_validate_json(json.dumps(HEARTBEAT))
    with pytest.raises(ValidationError):
        HeartbeatMessage.model_validate_json(json.dumps(HEARTBEAT | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": 0},
        {"number": 1 << 34},
        {"owner": "k" * 64},
        {"final_keys": []},
        {"final_keys": [{"source": "link", "epoch": n, "part": 0} for n in range(1025)]},
        {"final_keys": [{"source": "link", "epoch": 1 << 32, "part": 0}]},
        {"final_keys": [{"source": "link", "epoch": 1, "part": -1}]},
        {"final_keys": [{"source": "link", "epoch": 1}]},
        {"lifetime_s": 0},
        {"lifetime_s": (1 << 32) + 1},
        {"source_class": "quantum"},
        {"tag": "0" * 30},
        {"verdict": "equal"},
    ],
)
def test_a_proposal_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    ProposalMessage.model_validate_json(json.dumps(PROPOSAL)).to_proposal()
    with pytest.raises(ValidationError):
        ProposalMessage.model_validate_json(json.dumps(PROPOSAL | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "-"},
        {"final_keys": 2 * PROPOSAL["final_keys"]},
        {"final_keys": [{"source": s, "epoch": 1, "part": 0} for s in ("link", "other")]},
        {"final_keys": [{"source": "LINK", "epoch": 1, "part": 0}]},
    ],
)
def test_a_proposal_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    message = ProposalMessage.model_validate_json(json.dumps(PROPOSAL | wrong))
    with pytest.raises(InputError):
        message.to_proposal()


def test_a_source_that_is_no_name_is_refused() -> None:
    with pytest.raises(IdentifierError):
        FinalKeyMessage(source="", epoch=1, part=0).to_ref()


def test_messages_are_words_on_the_wire() -> None:
    assert VerdictMessage(verdict=Verdict.VOID).model_dump_json() == '{"verdict":"void"}'
    answer = HeartbeatAnswerMessage.of(HeartbeatAnswer(HeartbeatOutcome.ROLLED_BACK, None, 1, 2))
    assert json.loads(answer.model_dump_json()) == {
        "outcome": "rolled_back",
        "challenge": None,
        "settled": 1,
        "free_bytes": 2,
    }
