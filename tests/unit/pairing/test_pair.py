from typing import Any

import pytest

from kme.errors import SettingsError
from kme.pairing.pair import PairEnd, PeerConfig
from kme.store.memory import MemoryStore
from simulated_pair import ALICE_KME, BOB_KME, SOURCES, config_of, end_of
from simulation import VirtualClock


def test_both_ends_agree_who_leads() -> None:
    alice = end_of(ALICE_KME, MemoryStore(ALICE_KME), VirtualClock())
    bob = end_of(BOB_KME, MemoryStore(BOB_KME), VirtualClock())
    assert alice.ids == bob.ids == (ALICE_KME, BOB_KME)
    assert alice.is_leader
    assert not bob.is_leader


def test_a_kme_is_not_its_own_peer() -> None:
    with pytest.raises(SettingsError, match="own peer"):
        PairEnd(BOB_KME, config_of(BOB_KME), MemoryStore(BOB_KME), VirtualClock())


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_interval_s": 0.0},
        {"poll_s": -1.0},
        {"gather_s": -0.1},
        {"lifetime_s": 0},
        {"lifetime_s": (1 << 32) + 1},
        {"lease_s": 1.0},
        {"max_backoff_s": 0.1},
    ],
)
def test_impossible_times_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="peer kme-b"):
        PeerConfig(BOB_KME, SOURCES, **wrong)
