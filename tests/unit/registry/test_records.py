import pytest

from kme.errors import InputError
from kme.ids import KmeId, SaeId
from kme.registry.records import DEFAULT_HOLD_S, SaeEntry, hold_of, populate
from kme.supply.allocator import MAX_CLAIM_AGE_S

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
ALICE, BOB = SaeId("alice"), SaeId("bob")
HOLD_S = DEFAULT_HOLD_S
NOW_S = 1_000_000.0


def test_an_id_is_held_longer_than_any_key_for_it_lives() -> None:
    for lifetime_s in (1, 86_400, 30 * 86_400):
        late_s = lifetime_s / 64 + MAX_CLAIM_AGE_S
        assert hold_of(lifetime_s) > lifetime_s + late_s + 60
    assert DEFAULT_HOLD_S == 25 * 3600


def test_an_entry_is_written_and_read() -> None:
    for entry in (SaeEntry(1.5), SaeEntry(1.0, 2.0), SaeEntry(1.0, None, ("0a", "0b"))):
        assert SaeEntry.from_json(entry.to_json()) == entry


def test_what_the_first_start_writes_is_an_entry() -> None:
    assert SaeEntry.from_json({"since": 7}) == SaeEntry(7.0)


@pytest.mark.parametrize("wrong", [None, 3, {}, {"since": "x"}, {"since": 1, "removed": "y"}])
def test_what_is_no_entry_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="registry"):
        SaeEntry.from_json(wrong)


def test_a_removed_id_is_held_for_the_life_of_a_key() -> None:
    entry = SaeEntry(0.0, removed_s=NOW_S)
    assert entry.holds(NOW_S, HOLD_S)
    assert entry.holds(NOW_S + HOLD_S - 1, HOLD_S)
    assert not entry.holds(NOW_S + HOLD_S, HOLD_S)
    assert SaeEntry(0.0).holds(NOW_S * 99, HOLD_S)


def test_every_sae_has_its_home() -> None:
    found = populate(A, {ALICE: SaeEntry(0)}, {B: {BOB: SaeEntry(1)}, C: {}}, NOW_S)
    assert found.residents == ((ALICE, A), (BOB, B))
    assert found.disputed == ()


def test_this_kmes_own_sae_is_no_peers() -> None:
    found = populate(A, {ALICE: SaeEntry(9)}, {B: {ALICE: SaeEntry(1)}}, NOW_S)
    assert found.residents == ((ALICE, A),)
    assert found.disputed == ((ALICE, B),)


def test_of_two_peers_the_first_known_has_it() -> None:
    found = populate(A, {}, {B: {BOB: SaeEntry(2)}, C: {BOB: SaeEntry(1)}}, NOW_S)
    assert found.residents == ((BOB, C),)
    assert found.disputed == ((BOB, B),)


def test_two_peers_at_the_same_moment_are_told_apart_by_their_names() -> None:
    found = populate(A, {}, {C: {BOB: SaeEntry(1)}, B: {BOB: SaeEntry(1)}}, NOW_S)
    assert found.residents == ((BOB, B),)


def test_an_id_that_was_removed_lately_is_given_to_nobody() -> None:
    gone = SaeEntry(0, removed_s=NOW_S - 10)
    ours = populate(A, {ALICE: gone}, {B: {ALICE: SaeEntry(1)}}, NOW_S)
    assert (ours.residents, ours.disputed) == ((), ((ALICE, B),))
    theirs = populate(A, {}, {B: {BOB: gone}, C: {BOB: SaeEntry(1)}}, NOW_S)
    assert (theirs.residents, theirs.disputed) == ((), ((BOB, C),))
    later = populate(A, {}, {B: {BOB: gone}, C: {BOB: SaeEntry(1)}}, NOW_S + HOLD_S)
    assert (later.residents, later.disputed) == (((BOB, C),), ())
