"""One Vault that was set up by certauth and vault_init, for tests that only look at it."""

from collections.abc import Iterator

import pytest

from fresh_vault import FreshVault, fresh_vault


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshVault]:
    with fresh_vault(tmp_path_factory.mktemp("installed") / "site") as vault:
        vault.set_up()
        yield vault
