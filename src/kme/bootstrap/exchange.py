"""exchange - certificates that certauth left for us in, checked authorities of this site out."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kme.bootstrap.engines import KME, SAE, SERVICES, Engine
from kme.errors import CredentialError
from kme.pki.bundle import load_certificates


@dataclass(frozen=True, slots=True)
class SiteAuthorities:
    """The certificates of a site's authorities.

    Parameters
    ----------
    root
        Above all.
    services_intermediate
        What Vault's listener trusts.
    services, kme, sae
        The three issuing CAs whose keys are in Vault.
    """

    root: x509.Certificate
    services_intermediate: x509.Certificate
    services: x509.Certificate
    kme: x509.Certificate
    sae: x509.Certificate

    def of(self, engine: Engine) -> x509.Certificate:
        """Return the certificate of one issuing CA."""
        return {SERVICES.name: self.services, KME.name: self.kme, SAE.name: self.sae}[engine.name]

    def chain_of(self, engine: Engine) -> tuple[x509.Certificate, ...]:
        """Return what is sent along with a certificate of this CA: all above it but the root."""
        if engine == SERVICES:
            return (self.services, self.services_intermediate)
        return (self.of(engine),)


def read_authorities(exchange: Path, now: datetime) -> SiteAuthorities:
    """Read what certauth made and signed, and check who issued what.

    Raises
    ------
    CredentialError
        If a certificate is missing, expired, no CA, or issued by another
        authority than it should be; the message says what to run.
    """
    root = _read(exchange / "root.pem", now, "certauth certs")
    intermediate = _read(exchange / "services-intermediate.pem", now, "certauth certs")
    _require_issued(exchange / "services-intermediate.pem", intermediate, root)
    signed = {}
    for engine, above in ((SERVICES, intermediate), (KME, root), (SAE, root)):
        path = exchange / f"{engine.name}.pem"
        signed[engine.name] = _read(path, now, "certauth csr")
        _require_issued(path, signed[engine.name], above)
    return SiteAuthorities(root, intermediate, **signed)


def _read(path: Path, now: datetime, maker: str) -> x509.Certificate:
    if not path.exists():
        raise CredentialError(f"{path}: is not there: run `{maker}` first")
    certificate = load_certificates(path, now)[0]
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise CredentialError(f"{path}: this is not the certificate of an authority")
    return certificate


def _require_issued(path: Path, certificate: x509.Certificate, above: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CredentialError(
            f"{path}: not issued by {above.subject.rfc4514_string()!r} of this site: "
            "remove it and run `certauth csr` again"
        ) from error
