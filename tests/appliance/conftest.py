"""Two appliances on this host, started once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from two_kmes import TwoKmes


@pytest.fixture(scope="session")
def started() -> TwoKmes:
    """Return the pair as `make two-kmes` leaves it."""
    kmes = TwoKmes()
    kmes.start()
    return kmes


@pytest.fixture
def kmes(started: TwoKmes) -> Iterator[TwoKmes]:
    """Return the pair in working order; a test that hurt it must let it heal."""
    started.wait_until_served()
    yield started
    started.wait_until_served()
