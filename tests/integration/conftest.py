"""One real Vault for all integration tests of a run."""

from collections.abc import Iterator

import pytest

from real_vault import RealVault


@pytest.fixture(scope="session")
def real_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    with RealVault(tmp_path_factory.mktemp("vault")).running() as vault:
        yield vault
