"""A greedy SAE runs out of keys before those do for whom some are kept."""

import pytest

from kme.errors import RequestError, SettingsError
from kme.ids import KmeId, SaeId
from kme.supply.directory import SaeDirectory
from kme.supply.reserves import Reserve, Reserves

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
ALICE, GREEDY, BOB, CAROL = SaeId("alice"), SaeId("greedy"), SaeId("bob"), SaeId("carol")
DIRECTORY = SaeDirectory(A, (B, C), ((ALICE, A), (GREEDY, A), (BOB, B), (CAROL, C)))


def test_a_pair_is_kept_from_what_is_reserved_for_others_of_the_same_kme() -> None:
    reserves = Reserves([Reserve(ALICE, BOB, 100), Reserve(ALICE, CAROL, 7)])
    assert reserves.kept_from(GREEDY, BOB, DIRECTORY) == 100
    assert reserves.kept_from(ALICE, BOB, DIRECTORY) == 0
    assert reserves.kept_from(GREEDY, CAROL, DIRECTORY) == 7


def test_a_reserve_of_an_sae_that_is_not_there_yet_keeps_nothing() -> None:
    reserves = Reserves([Reserve(ALICE, SaeId("later"), 100)])
    assert reserves.kept_from(GREEDY, BOB, DIRECTORY) == 0


def test_a_slave_that_nobody_knows_is_refused_and_two_reserves_of_a_pair_are() -> None:
    with pytest.raises(RequestError):
        Reserves([Reserve(ALICE, BOB, 1)]).kept_from(ALICE, SaeId("nobody"), DIRECTORY)
    with pytest.raises(SettingsError, match="alice and bob"):
        Reserves([Reserve(ALICE, BOB, 1), Reserve(ALICE, BOB, 2)])
