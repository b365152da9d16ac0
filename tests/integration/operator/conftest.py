"""One Vault that was set up by certauth and vault_init, and an operator in front of it."""

from collections.abc import Iterator

import pytest

from fresh_vault import fresh_vault
from operator_site import OperatorSite


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorSite]:
    folder = tmp_path_factory.mktemp("operator")
    with fresh_vault(folder / "site") as vault:
        vault.set_up()
        yield OperatorSite(vault, folder)
