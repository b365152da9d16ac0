"""delivery - a site's authorities in, the certificates in each service's folder out.

::

    OUT/<service>/client.pem, client-key.pem      login to Vault, or TLS to it or to rest
    OUT/<service>/vault-ca.pem                    what Vault's certificate hangs under
    OUT/rest/server.pem, kme.pem                  towards Traefik; towards other KMEs
    OUT/rest/services-ca.pem, sae-ca.pem          whom rest believes
    OUT/traefik/kme.pem, hop.pem                  towards SAEs and other KMEs; towards rest
    OUT/traefik/{sae,peers,nobody,rest}-ca.pem    whom Traefik believes
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import hvac
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.bootstrap.exchange import SiteAuthorities
from kme.bootstrap.issue import SECRET_MODE, Wanted, deliver, is_current
from kme.bootstrap.roles import (
    IssuingRole,
    Site,
    kme_client_role,
    kme_server_role,
    rest_server_role,
    service_role,
)
from kme.bootstrap.steps import Step
from kme.files import TEMPORARY_PREFIX, write_whole
from kme.pki.authority import Authority, Leaf, Validity
from kme.pki.bundle import CredentialFiles
from kme.pki.site import ROOT_LIFETIME

VAULT_CLIENTS: Final = ("unsealer", "watcher", "rest", "operator", "metrics")
"""Services that talk to Vault."""

_TRAEFIK: Final = "traefik"


def wanted_certificates(site: Site, authorities: SiteAuthorities, out: Path) -> list[Wanted]:
    """Return every certificate of the site's services, and where it lies."""
    places = [
        *((service_role(name), f"{name}/client") for name in VAULT_CLIENTS),
        (service_role(_TRAEFIK), f"{_TRAEFIK}/hop"),
        (rest_server_role(), "rest/server"),
        (kme_client_role(site), "rest/kme"),
        (kme_server_role(site), f"{_TRAEFIK}/kme"),
    ]
    return [_wanted(role, authorities, out / stem) for role, stem in places]


def _wanted(role: IssuingRole, authorities: SiteAuthorities, stem: Path) -> Wanted:
    leaf = Leaf(role.uris[0].partition(":")[2], role.uses, role.uris, role.hosts)
    files = CredentialFiles(
        stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}-key.pem")
    )
    return Wanted(role, leaf, authorities.chain_of(role.engine), files)


def certificate_steps(client: hvac.Client, wanted: Iterable[Wanted], now: datetime) -> list[Step]:
    """Return the steps after which every certificate lies in its place."""
    return [_certificate_step(client, one, now) for one in wanted]


def _certificate_step(client: hvac.Client, wanted: Wanted, now: datetime) -> Step:
    place = "/".join(wanted.files.certificate.parts[-2:])
    return Step(
        f"certificate {place} is delivered",
        lambda: is_current(wanted, now),
        lambda: deliver(client, wanted),
    )


def anchors(authorities: SiteAuthorities, out: Path) -> dict[Path, x509.Certificate]:
    """Return which authority's certificate lies where."""
    traefik = out / _TRAEFIK
    return {
        **{out / name / "vault-ca.pem": authorities.root for name in VAULT_CLIENTS},
        out / "rest" / "services-ca.pem": authorities.services,
        out / "rest" / "sae-ca.pem": authorities.sae,
        out / "operator" / "services-ca.pem": authorities.services,
        traefik / "sae-ca.pem": authorities.sae,
        traefik / "rest-ca.pem": authorities.services,
    }


def anchor_steps(authorities: SiteAuthorities, out: Path) -> list[Step]:
    """Return the steps after which every service knows whom to believe."""
    return [
        _file_step(path, certificate.public_bytes(Encoding.PEM))
        for path, certificate in anchors(authorities, out).items()
    ]


def _file_step(path: Path, data: bytes) -> Step:
    return Step(
        f"{'/'.join(path.parts[-2:])} is delivered",
        lambda: path.is_file() and path.read_bytes() == data,
        lambda: write_whole(path, data, SECRET_MODE),
    )


def nobody_steps(out: Path) -> list[Step]:
    """Return the steps that make Traefik's strictest answer: a CA that has signed nothing.

    It stands for other KMEs too, until one is connected: what `connect` wrote
    there is left alone.
    """
    nobody, peers = out / _TRAEFIK / "nobody-ca.pem", out / _TRAEFIK / "peers-ca.pem"

    def make() -> None:
        validity = Validity.lasting(ROOT_LIFETIME, datetime.now(UTC).replace(microsecond=0))
        # Its key is forgotten with this line.
        certificate = Authority.root("QKD nobody", validity).credential.certificate
        write_whole(nobody, certificate.public_bytes(Encoding.PEM), SECRET_MODE)

    return [
        Step("a CA that signs nothing is there", lambda: _is_alive(nobody), make),
        Step(
            "Traefik knows which KMEs to believe",
            peers.is_file,
            lambda: write_whole(peers, nobody.read_bytes(), SECRET_MODE),
        ),
    ]


def _is_alive(path: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    return certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=30)


def sweep_partial_files(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half-written: keys may stand in it."""
    for folder in folders:
        for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)
