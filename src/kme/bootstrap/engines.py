"""engines - an unsealed Vault in; audit, certificate login, three issuing CAs and a key store out.

The private keys of the issuing CAs are made inside Vault and never leave it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import hvac
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hvac.exceptions import InvalidRequest

from kme.bootstrap.access import BootstrapError
from kme.bootstrap.steps import Step, settled
from kme.errors import CredentialError
from kme.files import write_whole
from kme.pki.bundle import load_request

KV_MOUNT: Final = "kme"
CERT_AUTH: Final = "cert"

_T = TypeVar("_T")

_KEY_NAME: Final = "issuing"
_FIVE_YEARS_S: Final = 5 * 365 * 86_400
_PUBLIC_MODE: Final = 0o644
_UPGRADE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Engine:
    """One issuing CA in Vault.

    Parameters
    ----------
    name
        What its files in the exchange folder are called.
    common_name
        The subject of its request.
    """

    name: str
    common_name: str

    @property
    def mount(self) -> str:
        """Where it is mounted."""
        return f"pki-{self.name}"


SERVICES: Final = Engine("services", "QKD services issuing CA")
KME: Final = Engine("kme", "QKD KME issuing CA")
SAE: Final = Engine("sae", "QKD SAE issuing CA")
ENGINES: Final = (SERVICES, KME, SAE)


def audit_step(client: hvac.Client, path: Path) -> Step:
    """Return the step after which every request is written to a file of Vault's."""
    options = {"file_path": str(path)}

    def is_done() -> bool:
        devices = client.sys.list_enabled_audit_devices()["data"]
        return any(device["options"] == options for device in devices.values())

    def do() -> None:
        client.sys.enable_audit_device("file", options=options, path="file")

    return Step("audit is on", is_done, do)


def cert_auth_step(client: hvac.Client) -> Step:
    """Return the step after which certificates may log in."""

    def is_done() -> bool:
        return f"{CERT_AUTH}/" in client.sys.list_auth_methods()["data"]

    return Step(
        "login by certificate is on",
        is_done,
        lambda: client.sys.enable_auth_method("cert", path=CERT_AUTH),
    )


def engine_steps(client: hvac.Client, engine: Engine, exchange: Path) -> list[Step]:
    """Return the steps that end with a certificate request in the exchange folder."""
    mount = engine.mount

    def is_mounted() -> bool:
        return f"{mount}/" in client.sys.list_mounted_secrets_engines()["data"]

    def mount_it() -> None:
        client.sys.enable_secrets_engine(
            "pki", path=mount, config={"max_lease_ttl": f"{_FIVE_YEARS_S}s"}
        )

    def make_key() -> None:
        client.write_data(
            f"{mount}/keys/generate/internal",
            data={"key_name": _KEY_NAME, "key_type": "ec", "key_bits": 384},
        )

    path = request_path(exchange, engine)

    def write_request() -> None:
        answer = client.write_data(
            f"{mount}/intermediate/generate/existing",
            data={"key_ref": _KEY_NAME, "common_name": engine.common_name},
        )
        write_whole(path, answer["data"]["csr"].encode() + b"\n", _PUBLIC_MODE)

    return [
        Step(f"{mount} is mounted", is_mounted, mount_it),
        Step(f"{mount} has a key", lambda: key_identifier(client, engine) is not None, make_key),
        Step(
            f"{mount} has asked for its certificate",
            lambda: _asks_for(path, key_identifier(client, engine)),
            write_request,
        ),
    ]


def request_path(exchange: Path, engine: Engine) -> Path:
    """Return where the certificate request lies."""
    return exchange / f"{engine.name}.csr"


def key_identifier(client: hvac.Client, engine: Engine) -> bytes | None:
    """Return the identifier of a CA's key (RFC 5280 section 4.2.1.2); None if it has none yet."""
    answer = client.list(f"{engine.mount}/keys")
    known = {} if answer is None else answer["data"]["key_info"]
    if _KEY_NAME not in [key["key_name"] for key in known.values()]:
        return None
    found: str = client.read(f"{engine.mount}/key/{_KEY_NAME}")["data"]["subject_key_id"]
    return bytes.fromhex(found.replace(":", ""))


def _asks_for(path: Path, identifier: bytes | None) -> bool:
    """Return whether a file is a certificate request for a certain key."""
    try:
        request = load_request(path)
    except CredentialError:
        return False
    return x509.SubjectKeyIdentifier.from_public_key(request.public_key()).digest == identifier


def signed_steps(
    client: hvac.Client, engine: Engine, certificate: x509.Certificate, vault_url: str
) -> list[Step]:
    """Return the steps after which a CA issues under its signed certificate.

    Its revocation list is made anew long before it ends, so that it is always
    in force.
    """
    mount = engine.mount
    pem = certificate.public_bytes(Encoding.PEM).decode("ascii")

    def is_installed() -> bool:
        chosen = client.read(f"{mount}/config/issuers")
        if chosen is None or not chosen["data"]["default"]:
            return False
        found = client.read(f"{mount}/issuer/{chosen['data']['default']}")["data"]["certificate"]
        return x509.load_pem_x509_certificate(found.encode()) == certificate

    def install() -> None:
        _require_own(client, engine, certificate)
        path = f"{mount}/intermediate/set-signed"
        answer = client.write_data(path, data={"certificate": pem})["data"]
        (issuer,) = answer["imported_issuers"] or answer["existing_issuers"]
        client.write_data(f"{mount}/config/issuers", data={"default": issuer})

    urls = {
        "issuing_certificates": [f"{vault_url}/v1/{mount}/ca"],
        "crl_distribution_points": [f"{vault_url}/v1/{mount}/crl"],
    }
    lists = {"expiry": "72h", "auto_rebuild": True, "auto_rebuild_grace_period": "48h"}
    return [
        Step(f"{mount} has its signed certificate", is_installed, install),
        settled(client, f"{mount}/issuer/default", {"leaf_not_after_behavior": "truncate"}),
        settled(client, f"{mount}/config/urls", urls),
        settled(client, f"{mount}/config/crl", lists),
        settled(client, f"{mount}/config/acme", {"enabled": False}),
    ]


def _require_own(client: hvac.Client, engine: Engine, certificate: x509.Certificate) -> None:
    identifier = key_identifier(client, engine)
    if identifier is None:
        raise BootstrapError(f"{engine.mount} has no key: run vault_init --first before")
    public_key: Any = certificate.public_key()
    if x509.SubjectKeyIdentifier.from_public_key(public_key).digest != identifier:
        raise BootstrapError(
            f"{engine.name}.pem in the exchange folder certifies another key than the one in "
            f"{engine.mount}: let certauth sign {engine.name}.csr again",
        )


def key_store_steps(client: hvac.Client) -> list[Step]:
    """Return the steps after which there is a KV v2 engine that keeps no old versions."""

    def is_mounted() -> bool:
        return f"{KV_MOUNT}/" in client.sys.list_mounted_secrets_engines()["data"]

    def mount_it() -> None:
        client.sys.enable_secrets_engine("kv", path=KV_MOUNT, options={"version": "2"})

    plain = settled(client, f"{KV_MOUNT}/config", {"max_versions": 1, "cas_required": True})
    config = Step(
        plain.name, lambda: _once_upgraded(plain.is_done), lambda: _once_upgraded(plain.do)
    )
    return [Step(f"{KV_MOUNT} is mounted", is_mounted, mount_it), config]


def _once_upgraded(act: Callable[[], _T]) -> _T:
    """Do it as soon as a KV engine that was just mounted has settled."""
    deadline = time.monotonic() + _UPGRADE_S
    while True:
        try:
            return act()
        except InvalidRequest as error:
            if "pgrad" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
