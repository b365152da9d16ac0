"""operator_site - the operator's program as its container runs it, on a real Vault."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from fresh_vault import REPOSITORY, FreshVault
from kme.bootstrap.roles import LOGINS
from kme.ids import KmeId
from kme.vault.documents import Documents
from kme.vault.session import VaultAccess, VaultSession

_T = TypeVar("_T")

HERE, PEER = KmeId("kme-1"), KmeId("kme-2")


class OperatorSite:
    """One KME's Vault, and an operator in front of it.

    Parameters
    ----------
    vault
        Set up by certauth and vault_init.
    folder
        Where issued credentials go.
    """

    def __init__(self, vault: FreshVault, folder: Path) -> None:
        self.vault = vault
        self.issued = folder / "issued"
        self.rest_url = "https://127.0.0.1:1"

    @property
    def traefik(self) -> Path:
        """Traefik's folder."""
        return self.vault.places.out / "traefik"

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the program's settings, some of them changed, as it finds them."""
        address = self.vault.address_of("operator")
        settings = {
            "ID": HERE,
            "SITE": "Site one",
            "HOST": "kme-1.example.org",
            "SAE_PORT": "8443",
            "PEER_PORT": "9443",
            "LINKS": f"{PEER}/qkd-1,kme-3/qkd-1",
            "VAULT__URL": address.url,
            "VAULT__CA": str(address.ca),
            "VAULT__CERTIFICATE": str(address.credential.certificate),
            "VAULT__KEY": str(address.credential.key),
            "REST__URL": self.rest_url,
            "REST__CA": str(self.vault.places.out / "operator" / "services-ca.pem"),
            "ISSUED": str(self.issued),
            "PEERS_CA": str(self.traefik / "peers-ca.pem"),
        }
        return {f"KME_{name}": value for name, value in (settings | changes).items()}

    def run(self, *arguments: str, given: str = "", **changes: str) -> tuple[int, str, str]:
        """Run a command; return its exit code and what it wrote to either stream."""
        done = subprocess.run(
            [sys.executable, REPOSITORY / "services/operator/operator.py", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY / "src"),
                "PYTHONSAFEPATH": "1",
                **self.environment(**changes),
            },
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def do(self, *arguments: str, given: str = "") -> str:
        """Run a command that must succeed; return what it showed."""
        code, out, err = self.run(*arguments, given=given)
        assert code == 0, f"{out}\n{err}"
        return out

    def ask(self, *arguments: str) -> Any:
        """Run a command with ``--json`` that must succeed; return what it found."""
        return json.loads(self.do(*arguments, "--json"))

    def refuses(self, *arguments: str, given: str = "") -> str:
        """Run a command that must be refused in one line; return that line."""
        code, out, err = self.run(*arguments, given=given)
        assert code == 1, f"{out}\n{err}"
        assert err.startswith("operator: ")
        assert err.count("\n") == 1, err
        return err

    def as_service(self, role: str, work: Callable[[Documents], Awaitable[_T]]) -> _T:
        """Do something in Vault as one of the services."""
        address = self.vault.address_of(LOGINS[role])
        access = VaultAccess(address.url, address.ca, address.credential, role)

        async def main() -> _T:
            session = VaultSession(access)
            await session.open()
            try:
                return await work(Documents(session))
            finally:
                await session.close()

        return asyncio.run(main())
