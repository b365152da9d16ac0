import pytest

from kme.errors import SettingsError
from kme.etsi014.offer import Offer
from kme.ids import KmeId

A = KmeId("kme-a")


def test_the_offer_suits_the_clients_there_are() -> None:
    offer = Offer(A)
    assert (offer.key_size_bits, offer.min_key_size_bits) == (256, 8)
    assert offer.max_key_size_bits == 65536
    assert offer.max_key_count < 2**31


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_key_size_bits": 264},
        {"max_key_size_bits": 248},
        {"key_size_bits": 250},
        {"min_key_size_bits": 0},
        {"max_key_size_bits": 65544},
        {"max_keys_per_request": 0},
        {"max_key_count": 100},
        {"max_key_count": 2**31},
        {"max_more_slaves": -1},
        {"max_more_slaves": 65},
    ],
)
def test_bounds_that_contradict_each_other_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        Offer(A, **bounds)
