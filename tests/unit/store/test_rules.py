"""The rules that all backends share, where a backend cannot show them alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import InputError
from kme.ids import KmeId
from kme.secret import Secret
from kme.store import rules
from kme.store.records import MAX_OPEN_FROM, Frontier, PairingRecord, Settlement, Verdict
from store_contract import proposal

NUMBERS = st.integers(0, 12)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_what_marks_open_and_shut_is_just_what_changes(
    settled: int, floor: int, more_settled: int, more_floor: int
) -> None:
    before = PairingRecord(peer_settled=settled, floor_allocate=floor)
    after = rules.raised(before, peer_settled=more_settled, floor_allocate=more_floor)

    def numbers(span: tuple[int, int]) -> set[int]:
        return set(range(span[0] + 1, span[1] + 1))

    usable_before = {n for n in range(15) if rules.is_usable(before, n)}
    usable_after = {n for n in range(15) if rules.is_usable(after, n)}
    assert numbers(rules.shut_by(before, after)) == usable_before - usable_after
    assert numbers(rules.opened_by(before, after)) == usable_after - usable_before


def test_a_final_key_in_more_parts_than_a_reference_can_name_is_refused() -> None:
    part = Secret(b"k")
    rules.check_parts([part] * (rules.MAX_PART + 1))
    with pytest.raises(InputError):
        rules.check_parts([part] * (rules.MAX_PART + 2))


def test_keys_are_drawn_at_the_kme_that_does_not_own_their_block_or_has_it_with_itself() -> None:
    a, b = KmeId("kme-a"), KmeId("kme-b")
    assert not rules.is_drawn_here(a, b, owner=a)
    assert rules.is_drawn_here(a, b, owner=b)
    assert rules.is_drawn_here(a, a, owner=a)


@given(st.dictionaries(st.integers(1, 90), st.integers(8, 20), max_size=MAX_OPEN_FROM + 1))
def test_a_frontier_leaves_before_it_just_what_may_still_be_allocated(
    open_from: dict[int, int],
) -> None:
    assert rules.frontier(open_from, PairingRecord()) == Frontier()
    last = Settlement(proposal(90), Verdict.VOID)
    found = rules.frontier(open_from, PairingRecord(last=last))
    numbers = sorted(open_from)
    end = numbers[MAX_OPEN_FROM] if len(numbers) > MAX_OPEN_FROM else 91
    for number in range(95):
        for granule in (0, 8, 12, 30):
            is_open = number in open_from and granule >= open_from[number]
            assert found.is_behind(number, granule) == (number < end and not is_open)
