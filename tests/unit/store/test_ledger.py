"""Ledgers: their bytes, and draws judged against a plain list of granules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import KeyNotFoundError, OverlapError
from kme.store.ledger import Ledger, draw_all, expire_all
from kme.store.records import Frontier, GranuleRange

RANGES = st.builds(
    lambda number, start, length: GranuleRange(number, start, start + length),
    st.integers(1, 3),
    st.integers(8, 20),
    st.integers(1, 5),
)


def test_a_fresh_ledger_has_its_reserved_granules_drawn() -> None:
    assert Ledger.fresh(20).to_bytes() == bytes([0xFF, 0, 0])
    assert Ledger.fresh(8).to_bytes() == bytes([0xFF])


@given(st.integers(8, 8192), st.data())
def test_bytes_tell_the_same_ledger(n_granules: int, data: st.DataObject) -> None:
    ledger = Ledger(n_granules, data.draw(st.integers(0, (1 << n_granules) - 1)))
    assert Ledger.from_bytes(n_granules, ledger.to_bytes()) == ledger
    assert len(ledger.to_bytes()) == -(-n_granules // 8)


@given(st.lists(RANGES, max_size=8), st.lists(RANGES, max_size=4))
def test_draws_are_judged_like_a_list_of_granules(
    before: list[GranuleRange], wanted: list[GranuleRange]
) -> None:
    ledgers: dict[int, Ledger | None] = {1: Ledger.fresh(22), 2: Ledger.fresh(30), 3: None}
    drawn = {(1, g) for g in range(8)} | {(2, g) for g in range(8)}
    for one in before:
        try:
            ledgers.update(draw_all(ledgers, [one]))
        except KeyNotFoundError:
            continue
        drawn |= {(one.block_number, g) for g in range(one.start, one.stop)}
    expected: type[KeyNotFoundError] | None = None
    asked: set[tuple[int, int]] = set()
    for one in wanted:
        cells = {(one.block_number, g) for g in range(one.start, one.stop)}
        if one.block_number == 3 or one.stop > {1: 22, 2: 30}[one.block_number]:
            expected = expected or KeyNotFoundError
            continue
        if cells & asked or (cells & drawn and not cells <= drawn):
            expected = OverlapError
        elif cells <= drawn:
            expected = expected or KeyNotFoundError
        asked |= cells
    if expected is None:
        after = {**ledgers, **draw_all(ledgers, wanted)}
        marked = {
            (number, g)
            for number, ledger in after.items()
            if ledger is not None
            for g in range(ledger.n_granules)
            if ledger.drawn >> g & 1
        }
        assert marked == drawn | asked
    else:
        with pytest.raises(KeyNotFoundError) as caught:
            draw_all(ledgers, wanted)
        assert caught.type is expected


@given(
    st.dictionaries(st.integers(1, 4), st.sets(st.integers(8, 19))),
    st.dictionaries(st.integers(1, 4), st.integers(8, 25)),
)
def test_an_expiry_takes_what_is_behind_the_frontier_and_counts_what_was_not_drawn(
    drawn: dict[int, set[int]], open_from: dict[int, int]
) -> None:
    reserved = set(range(8))
    ledgers = {n: Ledger(20, sum(1 << g for g in gone | reserved)) for n, gone in drawn.items()}
    frontier = Frontier(5, open_from)
    expired = {
        (n, g)
        for n in drawn
        for g in range(8, 20)
        if frontier.is_behind(n, g) and g not in drawn[n]
    }
    changed, n_expired = expire_all(ledgers, open_from)
    assert n_expired == len(expired)
    assert set(changed) == {number for number, _ in expired}
    for number, ledger in changed.items():
        gone = reserved | drawn[number] | {g for n, g in expired if n == number}
        assert ledger == Ledger(20, sum(1 << g for g in gone))
        assert ledger.is_full == (len(gone) == 20)
    assert expire_all({**ledgers, **changed}, open_from) == ({}, 0)
