"""fresh_vault - a real Vault that nobody initialised, beside a real certauth, for vault_init.

::

    DIR/certauth/exchange              requests and certificates, as between the two services
    DIR/certauth/out/{vault,vault_init}    what certauth hands to the two
    DIR/{state,policies,out,audit,data}    the other folders
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from certauth_site import CertauthSite
from kme.bootstrap.access import VaultAddress
from kme.bootstrap.places import Places
from kme.pair import free_ports
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import client_context
from real_vault import vault_program

REPOSITORY: Final = Path(__file__).resolve().parents[2]
POLICIES: Final = {
    "watcher": "watcher/policy.hcl",
    "rest": "rest/policy.hcl",
    "metrics": "metrics/policy.hcl",
    "inspect": "operator/inspect.hcl",
    "admin": "operator/admin.hcl",
    "backup": "operator/backup.hcl",
    "restore": "operator/restore.hcl",
}
SERVICES: Final = (
    "unsealer",
    "watcher",
    "rest",
    "traefik",
    "operator",
    "metrics",
    "sae",
    "shares",
)

_START_S: Final = 60.0


class FreshVault:
    """One server on a folder, and what belongs to it.

    Parameters
    ----------
    directory
        An empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self._cluster_port = free_ports(2)
        self.certauth = CertauthSite(directory / "certauth")
        self.places = Places(
            directory / "certauth" / "exchange",
            directory / "state",
            directory / "policies",
            directory / "out",
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def address(self) -> VaultAddress:
        """How vault_init gets in."""
        tls = self.directory / "certauth" / "out" / "vault_init"
        credential = CredentialFiles(tls / "client.pem", tls / "client-key.pem")
        return VaultAddress(self.url, tls / "vault-ca.pem", credential)

    def address_of(self, service: str) -> VaultAddress:
        """How a service gets in, with what vault_init gave it."""
        tls = self.places.out / service
        credential = CredentialFiles(tls / "client.pem", tls / "client-key.pem")
        return VaultAddress(self.url, tls / "vault-ca.pem", credential)

    @property
    def audit(self) -> Path:
        """Its audit log."""
        return self.directory / "audit" / "audit.log"

    def lay_out(self) -> None:
        """Make the folders and the first certificates."""
        for name in ("certauth/exchange", "state", "policies", "out", "audit", "data"):
            (self.directory / name).mkdir(parents=True)
        for name in SERVICES:
            (self.directory / "out" / name).mkdir()
        for name, path in POLICIES.items():
            shutil.copy(REPOSITORY / "services" / path, self.places.policies / f"{name}.hcl")
        self.certauth.make(datetime.now(UTC))
        text = (REPOSITORY / "services/vault/vault.hcl").read_text()
        for old, new in {
            "/vault/tls/": f"{self.directory}/certauth/out/vault/",
            '"/vault/data"': f'"{self.directory}/data"',
            "0.0.0.0:8200": f"127.0.0.1:{self.port}",
            "127.0.0.1:8201": f"127.0.0.1:{self._cluster_port}",
            "https://vault:8200": self.url,
        }.items():
            assert old in text, f"vault.hcl does not say {old} any more"
            text = text.replace(old, new)
        (self.directory / "vault.hcl").write_text(text)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.directory / "vault.log").open("ab") as log:
            self._process = subprocess.Popen(
                [vault_program(), "server", f"-config={self.directory / 'vault.hcl'}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"HOME": str(self.directory)},
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.get("/v1/sys/seal-status")
                return
            time.sleep(0.05)
        raise AssertionError((self.directory / "vault.log").read_text())

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """Return what a path answers to vault_init's certificate without a token."""
        context = client_context(self.address.credential, self.address.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=9, context=context)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def empty(self) -> None:
        """Throw away all that it stores, as `docker volume rm` would."""
        self.stop()
        shutil.rmtree(self.directory / "data")
        (self.directory / "data").mkdir()
        self.start()

    def sign(self, replaced: Collection[str] = ()) -> dict[str, str]:
        """Run `certauth csr`."""
        return self.certauth.sign(datetime.now(UTC), replaced)

    def environment(self) -> dict[str, str]:
        """Return the settings of vault_init."""
        address, places = self.address, self.places
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY / "src"),
            "KME_ID": "kme-1",
            "KME_HOST": "kme-1.example.org",
            "KME_VAULT__URL": address.url,
            "KME_VAULT__CA": str(address.ca),
            "KME_VAULT__CERTIFICATE": str(address.credential.certificate),
            "KME_VAULT__KEY": str(address.credential.key),
            "KME_EXCHANGE_DIR": str(places.exchange),
            "KME_STATE_DIR": str(places.state),
            "KME_POLICIES_DIR": str(places.policies),
            "KME_OUT_DIR": str(places.out),
            "KME_AUDIT_FILE": str(self.audit),
        }

    def run(
        self, *arguments: str, program: Path | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run vault_init, or a program around it, to its end."""
        return subprocess.run(
            [
                sys.executable,
                program or REPOSITORY / "services/vault_init/vault_init.py",
                *arguments,
            ],
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def set_up(self) -> None:
        """Run everything that `make init` runs of certauth and vault_init."""
        for act in (
            lambda: self.run("--first"),
            self.sign,
            lambda: self.run("--second"),
        ):
            done = act()
            assert not isinstance(done, subprocess.CompletedProcess) or not done.returncode, done


@contextlib.contextmanager
def fresh_vault(directory: Path) -> Iterator[FreshVault]:
    """Give a running server that nobody initialised; it ends with the context."""
    vault = FreshVault(directory)
    vault.lay_out()
    try:
        vault.start()
        yield vault
    finally:
        vault.stop()
