import itertools

import numpy as np
import pytest

from kme.errors import InputError
from qkd_sim.protocols import PROTOCOLS, Decision, Protocol, Sifting, protocol, sifting

PARTNER = {1: 4, 2: 8, 4: 1, 8: 2}
"""What the other side detects when both measure in the same basis."""


def siftings() -> list[tuple[int, Sifting]]:
    return [(row.number, row.sifting) for row in PROTOCOLS if row.sifting]


def decide(decision: Decision, own: int, other: int) -> tuple[bool, bool, int, int]:
    at = decision.index(np.array([own], np.uint8), np.array([other], np.uint8))
    return (
        bool(decision.is_key[at][0]),
        bool(decision.is_test[at][0]),
        int(decision.value[at][0]),
        int(decision.answer[at][0]),
    )


def both_sides(number: int, high: int, low: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return what each side notes of a coincidence of these patterns, dropped ones as 'drop'."""
    rules, sift = sifting(number)
    is_key, is_test, value, answer = decide(sift.high, high, int(rules.bases[low]))
    if not is_key and not is_test:
        return ("drop", 0), ("drop", 0)
    low_key, low_test, low_value, _ = decide(sift.low, int(rules.results[low]), answer)
    kind = {(True, False): "key", (False, True): "test", (False, False): "drop"}
    return (kind[is_key, is_test], value), (kind[low_key, low_test], low_value)


def test_protocols_are_numbered_as_they_stand() -> None:
    assert [row.number for row in PROTOCOLS] == list(range(6))
    assert [number for number, _ in siftings()] == [0, 1, 4, 5]


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.name)
def test_what_is_told_and_kept_fits_its_bits(row: Protocol) -> None:
    for table, n_bits in ((row.bases, row.basis_bits), (row.results, row.result_bits)):
        assert table.shape == (16,)
        assert int(table.max()) < 1 << n_bits
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1


@pytest.mark.parametrize(("number", "sift"), siftings())
def test_decisions_have_a_line_for_everything_and_fit_their_bits(
    number: int, sift: Sifting
) -> None:
    rules = protocol(number)
    assert (sift.high.own_bits, sift.high.other_bits) == (4, rules.basis_bits)
    assert (sift.low.own_bits, sift.low.other_bits) == (rules.result_bits, sift.answer_bits)
    sides = ((sift.high, sift.high_test_bits), (sift.low, sift.low_test_bits))
    for decision, test_bits in sides:
        assert decision.is_key.size == 1 << decision.own_bits + decision.other_bits
        assert not (decision.is_key & decision.is_test).any()
        assert decision.is_test.any() == bool(test_bits)
        assert int(decision.value[decision.is_key].max()) < 1 << sift.key_bits
        assert int(decision.value[decision.is_test].max(initial=0)) < 1 << test_bits
        assert int(decision.answer.max()) < 1 << sift.answer_bits


def test_bb84_keeps_single_clicks_in_the_same_basis_with_equal_bits() -> None:
    bits = {1: 1, 2: 1, 4: 0, 8: 0}
    for high, low in itertools.product(range(16), PARTNER):
        same_basis = high in PARTNER and (high in {1, 4}) == (low in {1, 4})
        ours, theirs = both_sides(1, high, low)
        assert ours == (("key", bits[high]) if same_basis else ("drop", 0))
        if low == PARTNER.get(high):
            assert theirs == ours
        elif same_basis:
            assert theirs == ("key", 1 - bits[high])


def test_the_service_protocol_tells_both_sides_everything() -> None:
    for high, low in itertools.product(range(16), repeat=2):
        assert both_sides(0, high, low) == (("key", low << 4 | high),) * 2


def test_four_detectors_give_key_on_diagonals_and_bell_tests_otherwise() -> None:
    assert both_sides(4, 3, 2) == (("key", 0), ("key", 0))
    assert both_sides(4, 6, 1) == (("key", 1), ("key", 1))
    for i, j in itertools.product(range(4), repeat=2):
        assert both_sides(4, 1 << i, 1 << j) == (("test", i), ("test", j << 2 | i))
    for low in (0, 3, 5, 15):
        assert both_sides(4, 1, low)[0] == ("drop", 0)


def test_bc_keeps_every_single_click_with_basis_and_bit() -> None:
    for high, low in itertools.product(PARTNER, repeat=2):
        ours, theirs = both_sides(5, high, low)
        assert (ours[0], theirs[0]) == ("key", "key")
        assert ours[1] >> 1 == (high in {2, 8})
        if low == PARTNER[high]:
            assert theirs[1] == ours[1] ^ 1
    assert both_sides(5, 3, 1)[0] == ("drop", 0)


def test_a_protocol_that_is_not_there_is_refused() -> None:
    for number in (-1, 6, 1 << 31):
        with pytest.raises(InputError, match=f"there is no protocol {number}; there are 0 to 5"):
            protocol(number)
    with pytest.raises(
        InputError, match=r"protocol 2 \(rich BB84\) defines no sifting; use one of"
    ):
        sifting(2)
