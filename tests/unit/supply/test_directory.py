import pytest

from kme.errors import RequestError, SettingsError
from kme.ids import KmeId, SaeId
from kme.supply.directory import SaeDirectory

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
ALICE, BOB, CAROL, DAVE = (SaeId(name) for name in ("alice", "bob", "carol", "dave"))
DIRECTORY = SaeDirectory(A, (B, C), ((ALICE, A), (BOB, B), (CAROL, C), (DAVE, A)))


def test_each_sae_has_its_home() -> None:
    assert [DIRECTORY.home_of(sae) for sae in (ALICE, BOB, CAROL, DAVE)] == [A, B, C, A]


def test_only_saes_of_this_kme_are_local() -> None:
    assert [DIRECTORY.is_local(sae) for sae in (ALICE, BOB, CAROL)] == [True, False, False]
    assert not DIRECTORY.is_local(SaeId("nobody"))
    assert DIRECTORY.local_saes == (ALICE, DAVE)


def test_an_unknown_sae_is_named_in_the_error() -> None:
    with pytest.raises(RequestError, match="SAE 'nobody' is not registered"):
        DIRECTORY.home_of(SaeId("nobody"))


def test_saes_come_and_go_in_one_step() -> None:
    directory = SaeDirectory(A, (B, C), ((ALICE, A), (BOB, B)))
    assert directory.replace([(ALICE, A), (CAROL, A), (DAVE, C)])
    assert directory.local_saes == (ALICE, CAROL)
    assert directory.residents == ((ALICE, A), (CAROL, A), (DAVE, C))
    assert directory.home_of(DAVE) == C
    with pytest.raises(RequestError, match="SAE 'bob' is not registered"):
        directory.home_of(BOB)
    assert not directory.replace([(DAVE, C), (CAROL, A), (ALICE, A)])


def test_what_contradicts_itself_changes_nothing() -> None:
    directory = SaeDirectory(A, (B,), ((ALICE, A),))
    for residents in ([(ALICE, A), (ALICE, B)], [(CAROL, C)]):
        with pytest.raises(SettingsError):
            directory.replace(residents)
    assert directory.residents == ((ALICE, A),)
    assert (directory.local, directory.peers) == (A, (B,))


@pytest.mark.parametrize(
    ("peers", "residents", "says"),
    [
        ((B, B), (), "KME 'kme-b' is named twice"),
        ((B, A), (), "KME 'kme-a' is named twice"),
        ((B,), ((ALICE, A), (ALICE, B)), "SAE 'alice' is named twice"),
        ((B,), ((ALICE, A), (ALICE, A)), "SAE 'alice' is named twice"),
        ((B,), ((CAROL, C),), "SAE 'carol' lives at 'kme-c', which is neither"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused(
    peers: tuple[KmeId, ...], residents: tuple[tuple[SaeId, KmeId], ...], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        SaeDirectory(A, peers, residents)


def test_a_kme_may_have_no_peer_and_no_sae() -> None:
    assert SaeDirectory(A, (), ()).local_saes == ()
