"""Two KMEs behind real TLS, made once for all conformance tests."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kme.pki.site import SitePki
from sae_interface import SaeInterface, make_site, running_interface
from supply_pair import ALICE, BOB, CAROL, EVE, A, B


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> SitePki:
    directory: Path = tmp_path_factory.mktemp("pki")
    return make_site(directory)


@pytest.fixture(scope="module")
def interface(pki: SitePki) -> Iterator[SaeInterface]:
    with running_interface(pki) as running:
        running.add_blocks(A, 12)
        running.add_blocks(B, 2)
        yield running


@pytest.fixture(scope="module")
def alice(interface: SaeInterface) -> Iterator[httpx.Client]:
    with interface.client(ALICE) as client:
        yield client


@pytest.fixture(scope="module")
def carol(interface: SaeInterface) -> Iterator[httpx.Client]:
    with interface.client(CAROL) as client:
        yield client


@pytest.fixture(scope="module")
def bob(interface: SaeInterface) -> Iterator[httpx.Client]:
    with interface.client(BOB) as client:
        yield client


@pytest.fixture(scope="module")
def eve(interface: SaeInterface) -> Iterator[httpx.Client]:
    with interface.client(EVE) as client:
        yield client
