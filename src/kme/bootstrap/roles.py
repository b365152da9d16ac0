"""roles - a site's names in; what each CA may sign, and which certificate logs in as what, out."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import hvac
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hvac.exceptions import InvalidPath

from kme.bootstrap.engines import CERT_AUTH, KME, SAE, SERVICES, Engine
from kme.bootstrap.steps import Step, holds
from kme.ids import KmeId, SaeId
from kme.pki.authority import TlsRole
from kme.pki.identity import KME_PREFIX, SAE_PREFIX, SERVICE_PREFIX
from kme.pki.site import LEAF_LIFETIME

CLIENTS: Final = ("unsealer", "watcher", "rest", "traefik", "operator", "metrics")
"""Services that get a client certificate from the services' issuing CA."""

LOGINS: Final = {
    "watcher": "watcher",
    "rest": "rest",
    "inspect": "operator",
    "admin": "operator",
    "backup": "operator",
    "restore": "operator",
    "metrics": "metrics",
}
"""For each login role of Vault the service whose certificate may use it."""

REST_HOST: Final = "rest"
"""What Traefik and the operator reach rest by."""

_LIFETIME_S: Final = int(LEAF_LIFETIME.total_seconds())
_BACKDATE_S: Final = 3600
_TOKEN_S: Final = 600
_MAX_TOKEN_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Site:
    """What an operator chose.

    Parameters
    ----------
    kme
        Id of this KME.
    host
        DNS name or address by which SAEs and other KMEs reach it.
    first_sae
        The SAE that is made with the installation.
    vault_url
        Where Vault is, as its own certificates say.
    """

    kme: KmeId
    host: str
    first_sae: SaeId
    vault_url: str


@dataclass(frozen=True, slots=True)
class IssuingRole:
    """What one CA signs for one purpose.

    Parameters
    ----------
    engine
        The CA.
    name
        Name of the role in it.
    uses
        Which side of TLS, and no other.
    uris
        URIs that may stand in the certificate, and no others; ``*`` at the end
        stands for any text.
    hosts
        Host names that may, and no others.
    """

    engine: Engine
    name: str
    uses: TlsRole
    uris: tuple[str, ...]
    hosts: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Where it is written in Vault."""
        return f"{self.engine.mount}/roles/{self.name}"

    def values(self) -> dict[str, object]:
        """Return the role as Vault answers it.

        Of a request only its key counts; names come with the call and are held
        against the role. The common name is for people to read and not
        validated; callers of ``sign`` keep it out of the alternative names.
        """
        names = [host for host in self.hosts if not is_address(host)]
        return {
            "key_type": "ec",
            "key_bits": 256,
            "key_usage": ["DigitalSignature"],
            "server_flag": TlsRole.SERVER in self.uses,
            "client_flag": TlsRole.CLIENT in self.uses,
            "code_signing_flag": False,
            "email_protection_flag": False,
            "ext_key_usage": [],
            "basic_constraints_valid_for_non_ca": True,
            "allow_any_name": False,
            "allow_localhost": False,
            "allow_subdomains": False,
            "allow_glob_domains": False,
            "allow_wildcard_certificates": False,
            "allow_bare_domains": bool(names),
            "allowed_domains": names,
            "allow_ip_sans": len(names) < len(self.hosts),
            "allowed_uri_sans": list(self.uris),
            "allowed_other_sans": [],
            "cn_validations": ["disabled"],
            "require_cn": True,
            "use_csr_common_name": False,
            "use_csr_sans": False,
            "enforce_hostnames": True,
            "ttl": _LIFETIME_S,
            "max_ttl": _LIFETIME_S,
            "not_before_duration": _BACKDATE_S,
            "no_store": False,
            "generate_lease": False,
        }


def is_address(host: str) -> bool:
    """Return whether a host is given by its IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def service_role(service: str) -> IssuingRole:
    """Return the role of one service's client certificate."""
    uris = (SERVICE_PREFIX + service,)
    return IssuingRole(SERVICES, f"service-{service}", TlsRole.CLIENT, uris)


def rest_server_role() -> IssuingRole:
    """Return the role of what rest shows to Traefik."""
    uris = (SERVICE_PREFIX + "rest",)
    return IssuingRole(SERVICES, "rest-server", TlsRole.SERVER, uris, (REST_HOST,))


def kme_server_role(site: Site) -> IssuingRole:
    """Return the role of what Traefik shows at both doors, to SAEs and to other KMEs.

    One certificate: Traefik chooses it by the host name, and both doors have the same.
    """
    return IssuingRole(KME, "kme-server", TlsRole.SERVER, (KME_PREFIX + site.kme,), (site.host,))


def kme_client_role(site: Site) -> IssuingRole:
    """Return the role of what rest shows to other KMEs."""
    return IssuingRole(KME, "kme-client", TlsRole.CLIENT, (KME_PREFIX + site.kme,), (site.host,))


def sae_role() -> IssuingRole:
    """Return the role of SAEs: clients that are named, nothing else."""
    return IssuingRole(SAE, "sae", TlsRole.CLIENT, (SAE_PREFIX + "*",))


def issuing_roles(site: Site) -> list[IssuingRole]:
    """Return all roles of the three CAs."""
    return [
        *(service_role(service) for service in CLIENTS),
        rest_server_role(),
        kme_server_role(site),
        kme_client_role(site),
        sae_role(),
    ]


def login_values(role: str) -> dict[str, object]:
    """Return what Vault answers about a login role, but for the CA."""
    return {
        "allowed_uri_sans": [SERVICE_PREFIX + LOGINS[role]],
        "token_policies": [role],
        "token_ttl": _TOKEN_S,
        "token_max_ttl": _MAX_TOKEN_S,
        "token_no_default_policy": True,
    }


def login_steps(client: hvac.Client, services_ca: x509.Certificate) -> list[Step]:
    """Return the steps after which services' certificates log in, each with its own policy."""
    pem = services_ca.public_bytes(Encoding.PEM).decode("ascii")
    return [_login_step(client, role, pem, login_values(role)) for role in LOGINS]


def _login_step(client: hvac.Client, role: str, pem: str, values: Mapping[str, object]) -> Step:
    def is_done() -> bool:
        try:
            found = client.auth.cert.read_ca_certificate_role(role, mount_point=CERT_AUTH)["data"]
        except InvalidPath:
            return False
        return holds(found, values) and found["certificate"].strip() == pem.strip()

    def do() -> None:
        client.auth.cert.create_ca_certificate_role(
            role, certificate=pem, mount_point=CERT_AUTH, **values
        )

    return Step(f"login role {role} is there", is_done, do)
