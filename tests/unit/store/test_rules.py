"""The rules that all backends share, where a backend cannot show them alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import InputError
from kme.secret import Secret
from kme.store import rules
from kme.store.records import PairingRecord

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
