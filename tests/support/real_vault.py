"""real_vault - HashiCorp Vault itself, for tests: raft storage, TLS 1.3, certificate login.

It runs the appliance's own configuration (services/vault/vault.hcl) with paths
and addresses of this host, and certificates made on the spot.
"""

import contextlib
import hashlib
import itertools
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import hvac
import pytest
import requests
from cryptography.hazmat.primitives.serialization import Encoding

from kme.pair import free_ports
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.pki.identity import SERVICE_PREFIX
from kme.secret import Secret
from kme.vault.client import VaultAccess, connect
from kme.vault.session import VaultSession

_REPOSITORY: Final = Path(__file__).parents[2]
_CONFIGURATION: Final = _REPOSITORY / "services/vault/vault.hcl"
_MODULE: Final = _REPOSITORY / "services/vault/build"

_HOST: Final = "127.0.0.1"
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_POLL_S: Final = 0.05
_SHARES: Final = 3
_THRESHOLD: Final = 2

EVERYTHING: Final = "everything"
"""A role and policy that may do everything but administer Vault itself."""

_ALL: Final = '["create", "read", "update", "delete", "list"]'


def vault_program() -> Path:
    """Return where the Vault program is; fail the test if it was not built."""
    named = os.environ.get("KME_VAULT")
    if named is not None:
        program = Path(named)
    else:
        sources = (_MODULE / "go.mod").read_bytes() + (_MODULE / "go.sum").read_bytes()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        program = cache / "kme/vault" / hashlib.sha256(sources).hexdigest()[:16] / "vault"
    if not os.access(program, os.X_OK):
        pytest.fail(f"no Vault at {program}: run scripts/build-vault", pytrace=False)
    return program


class RealVault:
    """One Vault, initialised, unsealed and set up: KV at ``kme``, certificate login, audit log.

    Parameters
    ----------
    folder
        Everything it keeps: storage, certificates, logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = vault_program()
        self.port, self._cluster_port = free_ports(2)
        self.url = f"https://{_HOST}:{self.port}"
        self.log = folder / "vault.log"
        self.audit = folder / "audit/audit.log"
        self.ca = folder / "tls/root.pem"
        validity = Validity.lasting(timedelta(days=1), datetime.now(UTC))
        self.root = Authority.root("test root", validity)
        self.services = self.root.issue_authority(
            "test services", TlsRole.SERVER | TlsRole.CLIENT, validity
        )
        self.validity = validity
        self._serial = itertools.count()
        self._service_of: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._shares: Sequence[str] = ()
        self.root_token = Secret(b"")

    # Its process

    @contextlib.contextmanager
    def running(self) -> Iterator["RealVault"]:
        """Start and set it up; it ends with the context."""
        self._lay_out()
        try:
            self.start()
            self._initialise()
            self.unseal()
            self._set_up()
            yield self
        finally:
            self.kill()

    def start(self) -> None:
        """Start the process; it is sealed then."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "server", f"-config={self.folder / 'vault.hcl'}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Nothing of the environment: proxies and VAULT_* variables would count.
                env={"HOME": str(self.folder)},
            )
        self._wait_for(range(100, 600))

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._process = None

    def restart(self) -> None:
        """Kill it, start it again and unseal it."""
        self.kill()
        self.start()
        self.unseal()

    def seal(self) -> None:
        """Seal it."""
        with self.root_client() as client:
            client.sys.seal()
        self._wait_for([503])

    def unseal(self) -> None:
        """Unseal it, and wait until it serves."""
        with self.client() as client:
            client.sys.submit_unseal_keys(list(self._shares[:_THRESHOLD]))
        self._wait_for([200])

    def pause(self) -> None:
        """Make it hang: connections are taken, nothing is answered."""
        self._signal("STOP")

    def resume(self) -> None:
        """Let it go on."""
        self._signal("CONT")

    def _signal(self, name: str) -> None:
        assert self._process is not None
        subprocess.run(["kill", f"-{name}", str(self._process.pid)], check=True)

    # Who may do what

    @contextlib.contextmanager
    def client(self, token: Secret | None = None) -> Iterator[hvac.Client]:
        """Give a client with a certificate, and a token if one is named."""
        client = connect(self.access(None, "vault_init", timeout_s=30.0), token)
        try:
            yield client
        finally:
            client.adapter.close()

    def root_client(self) -> contextlib.AbstractContextManager[hvac.Client]:
        """Give a client that may do everything."""
        return self.client(self.root_token)

    def access(
        self, role: str | None = EVERYTHING, service: str | None = None, timeout_s: float = 5.0
    ) -> VaultAccess:
        """Return how a role gets in, with a fresh certificate of the service it is for."""
        if service is None:
            service = "nobody" if role is None else self._service_of[role]
        return VaultAccess(self.url, self.ca, self.credential(service), role, timeout_s)

    def credential(self, service: str, authority: Authority | None = None) -> CredentialFiles:
        """Make a client certificate of a service."""
        stem = self.folder / "tls" / f"{service}-{next(self._serial)}"
        files = CredentialFiles(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        leaf = Leaf(service, TlsRole.CLIENT, uris=(f"{SERVICE_PREFIX}{service}",))
        write_credential((authority or self.services).issue(leaf, self.validity), files)
        return files

    def policy(self, name: str, hcl: str) -> None:
        """Write a policy."""
        with self.root_client() as client:
            client.sys.create_or_update_policy(name, hcl)

    def role(
        self, name: str, service: str, policies: Sequence[str], ttl: str = "10m", **more: Any
    ) -> None:
        """Let a service log in as a role that has some policies."""
        with self.root_client() as client:
            client.auth.cert.create_ca_certificate_role(
                name,
                certificate=self.services.credential.certificate.public_bytes(
                    Encoding.PEM
                ).decode(),
                allowed_uri_sans=f"{SERVICE_PREFIX}{service}",
                token_policies=list(policies),
                token_ttl=ttl,
                **more,
            )
        self._service_of[name] = service

    def fresh_mount(self) -> str:
        """Make a KV mount like ``kme``, empty, and return its name."""
        name = f"kme-{secrets.token_hex(4)}"
        self._enable_kv(name)
        return name

    def _enable_kv(self, name: str) -> None:
        with self.root_client() as client:
            client.sys.enable_secrets_engine("kv", path=name, options={"version": "2"})
            # Not ready for a moment; the tests of a fresh mount are about that.
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    client.secrets.kv.v2.configure(1, cas_required=True, mount_point=name)
                except hvac.exceptions.InvalidRequest:
                    assert time.monotonic() < deadline
                    time.sleep(_POLL_S)
                else:
                    return

    # Its first start

    def _lay_out(self) -> None:
        for name in ("data", "tls", "audit"):
            (self.folder / name).mkdir(mode=0o700, parents=True)
        tls = self.folder / "tls"
        leaf = Leaf("vault", TlsRole.SERVER, hosts=(_HOST, "localhost"))
        files = CredentialFiles(tls / "server.pem", tls / "server-key.pem")
        write_credential(self.services.issue(leaf, self.validity), files)
        write_certificates(self.services.credential.chain[:1], tls / "client-ca.pem")
        write_certificates(self.root.credential.chain, self.ca)
        text = _CONFIGURATION.read_text()
        for old, new in {
            "/vault/": f"{self.folder}/",
            "0.0.0.0:8200": f"{_HOST}:{self.port}",
            "127.0.0.1:8201": f"{_HOST}:{self._cluster_port}",
            "https://vault:8200": self.url,
        }.items():
            assert old in text, f"{_CONFIGURATION} does not say {old} any more"
            text = text.replace(old, new)
        (self.folder / "vault.hcl").write_text(text)

    def _initialise(self) -> None:
        with self.client() as client:
            result = client.sys.initialize(_SHARES, _THRESHOLD)
        self._shares = result["keys_base64"]
        self.root_token = Secret(result["root_token"].encode())

    def _set_up(self) -> None:
        with self.root_client() as client:
            client.sys.enable_audit_device(
                "file", options={"file_path": str(self.audit), "mode": "0600"}
            )
            client.sys.enable_auth_method("cert")
        self._enable_kv("kme")
        self.policy(EVERYTHING, f'path "*" {{ capabilities = {_ALL} }}')
        self.role(EVERYTHING, EVERYTHING, [EVERYTHING])

    def _wait_for(self, statuses: Sequence[int]) -> None:
        """Wait until its health is one of these HTTP statuses."""
        deadline = time.monotonic() + _START_S
        found: object = None
        with self.client() as client:
            while time.monotonic() < deadline:
                assert self._process is not None
                assert self._process.poll() is None, self.log.read_text()
                try:
                    answer = client.adapter.get("/v1/sys/health", raise_exception=False)
                except requests.ConnectionError as error:
                    found = error
                else:
                    found = getattr(answer, "status_code", 200)
                    if found in statuses:
                        return
                time.sleep(_POLL_S)
        pytest.fail(f"Vault did not come to health {statuses}: {found}\n{self.log.read_text()}")


@contextlib.asynccontextmanager
async def open_session(access: VaultAccess, n_threads: int = 8) -> AsyncIterator[VaultSession]:
    """Give a session that is open, and close it."""
    session = VaultSession(access, n_threads)
    await session.open()
    try:
        yield session
    finally:
        await session.close()
