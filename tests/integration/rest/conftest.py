"""One rest service on a real Vault, with a real peer, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from pair_on_host import ALICE, BOB
from real_vault import RealVault
from rest_site import RestSite
from server_thread import ServerThread


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestSite]:
    vault = RealVault(tmp_path_factory.mktemp("vault"))
    folder = tmp_path_factory.mktemp("site")
    with vault.running(), ServerThread() as loop, RestSite(folder, vault, loop).running() as site:
        site.feed()
        yield site


@pytest.fixture
def serving(site: RestSite) -> RestSite:
    """Give the service once its peer is alive and key is in stock."""
    site.wait_until(site.is_serving)
    site.feed(2)
    site.wait_until(lambda: site.can_exchange(ALICE, BOB))
    return site
