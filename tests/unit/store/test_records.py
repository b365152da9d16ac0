"""kme.store.records: what is stored keeps its own rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import InputError
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store.records import (
    RESERVED_GRANULES,
    FinalKeyRef,
    GranuleRange,
    KeyBlock,
    Proposal,
    SourceClass,
    Stock,
)

A = KmeId("kme-a")
REF = FinalKeyRef(SourceId("sim"), Epoch(7))


def _proposal(
    *, number: int = 1, entries: tuple[FinalKeyRef, ...] = (REF,), lifetime_s: int = 60,
    tag: bytes = bytes(16),
) -> Proposal:  # fmt: skip
    return Proposal(number, A, entries, lifetime_s, SourceClass.QKD, tag)


def test_a_proposal_knows_its_one_source() -> None:
    assert _proposal().source == "sim"


@pytest.mark.parametrize(
    "entries", [(), (REF, FinalKeyRef(SourceId("other"), Epoch(7)))], ids=["none", "two"]
)
def test_a_proposal_is_of_exactly_one_source(entries: tuple[FinalKeyRef, ...]) -> None:
    with pytest.raises(InputError, match="exactly one source"):
        _proposal(entries=entries)


def test_a_proposal_lists_no_final_key_twice() -> None:
    with pytest.raises(InputError, match="twice"):
        _proposal(entries=(REF, REF))


def test_a_proposals_fields_are_in_range() -> None:
    with pytest.raises(InputError, match="out of range"):
        _proposal(number=0)
    with pytest.raises(InputError, match="out of range"):
        _proposal(lifetime_s=0)
    with pytest.raises(InputError, match="out of range"):
        _proposal(tag=bytes(15))


@pytest.mark.parametrize(("start", "stop"), [(7, 9), (8, 8), (9, 8), (-1, 20)])
def test_a_range_is_not_empty_and_spares_a_blocks_own_bytes(start: int, stop: int) -> None:
    with pytest.raises(InputError, match="empty or touches"):
        GranuleRange(1, start, stop)


def test_a_range_counts_its_granules() -> None:
    assert GranuleRange(1, RESERVED_GRANULES, RESERVED_GRANULES + 5).n_granules == 5


def test_a_block_has_whole_granules_and_does_not_print_its_bytes() -> None:
    block = KeyBlock(3, A, SourceId("sim"), SourceClass.QKD, 60, Secret(b"\xaa" * 101))
    assert block.n_bytes == 101
    assert block.n_granules == 12
    assert "Secret" not in repr(block)


@given(st.dictionaries(st.integers(1, 8192), st.integers(1, 50), max_size=8), st.integers(1, 8192))
def test_stock_counts_what_can_really_be_cut(rooms: dict[int, int], n_bytes: int) -> None:
    stock = Stock(rooms)
    n_granules = -(-n_bytes // 8)
    cut = sum(len(range(n_granules, room + 1, n_granules)) * n for room, n in rooms.items())
    assert stock.count_of(n_bytes) == cut
    assert stock.n_bytes == sum(8 * room * n for room, n in rooms.items())
    assert (stock.count_of(n_bytes) > 0) == (stock.max_key_bytes >= n_granules * 8)
