from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kme.errors import IdentifierError, InputError
from kme.ids import SaeId
from kme.pairing.compare import MAX_COMPARED
from kme.pairing.ports import BlockTag, PairStock
from kme.peer.messages import (
    MAX_BODY_BYTES,
    ClearMessage,
    ComparedMessage,
    CompareMessage,
    SaesMessage,
    StockMessage,
    StockQuestionMessage,
)
from kme.registry.records import MAX_SAES, SaeList

saes = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
numbers = st.integers(0, 2**34 - 1)
counts = st.integers(0, 2**62 - 1)


@settings(max_examples=50)
@given(counts, st.lists(saes, max_size=5, unique=True))
def test_a_list_of_saes_survives_the_wire(counter: int, names: list[str]) -> None:
    told = SaeList(counter, tuple(map(SaeId, names)))
    text = SaesMessage.of(told).model_dump_json()
    assert SaesMessage.model_validate_json(text).to_list() == told


@settings(max_examples=50)
@given(st.builds(PairStock, numbers, numbers, counts, counts, counts))
def test_stock_survives_the_wire(stock: PairStock) -> None:
    text = StockMessage.of(stock).model_dump_json()
    assert StockMessage.model_validate_json(text).to_stock() == stock


@settings(max_examples=50)
@given(st.lists(st.builds(BlockTag, numbers, st.binary(min_size=32, max_size=32)), max_size=4))
def test_tags_survive_the_wire(tags: list[BlockTag]) -> None:
    text = CompareMessage.of(tags).model_dump_json()
    assert CompareMessage.model_validate_json(text).to_tags() == tags


def test_the_largest_messages_fit_the_body() -> None:
    names = tuple(SaeId(f"{n:04d}" + "s" * 124) for n in range(MAX_SAES))
    tags = [BlockTag(2**34 - 1 - n, bytes(32)) for n in range(MAX_COMPARED)]
    for message in (SaesMessage.of(SaeList(2**62 - 1, names)), CompareMessage.of(tags)):
        assert len(message.model_dump_json()) < MAX_BODY_BYTES


TAG = {"number": 1, "tag": "0" * 64}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SaesMessage, {"counter": -1, "saes": []}),
        (SaesMessage, {"counter": 1, "saes": ["x" * 129]}),
        (SaesMessage, {"counter": 1, "saes": ["x"] * (MAX_SAES + 1)}),
        (SaesMessage, {"counter": 1, "saes": [7]}),
        (SaesMessage, {"counter": 1, "saes": [], "more": 1}),
        (StockQuestionMessage, {"key_bytes": 0}),
        (StockQuestionMessage, {"key_bytes": 8193}),
        (
            StockMessage,
            {"highest": 1 << 34, "settled": 0, "n_blocks": 0, "n_bytes": 0, "n_keys": 0},
        ),
        (CompareMessage, {"blocks": [TAG] * (MAX_COMPARED + 1)}),
        (CompareMessage, {"blocks": [{**TAG, "tag": "0" * 63}]}),
        (CompareMessage, {"blocks": [{**TAG, "number": -1}]}),
        (ComparedMessage, {"found": ["fine"]}),
        (ComparedMessage, {"found": ["equal"] * (MAX_COMPARED + 1)}),
        (ClearMessage, {"highest": "1"}),
        (ClearMessage, {}),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(wrong)


def test_names_that_mean_nothing_are_refused() -> None:
    with pytest.raises(IdentifierError):
        SaesMessage(counter=1, saes=["with space"]).to_list()
    with pytest.raises(InputError, match="twice"):
        SaesMessage(counter=1, saes=["alice", "alice"]).to_list()
