"""issue - what a certificate should say in; a key made here and Vault's certificate for it out.

Private keys are made by this process and written to their service's folder;
Vault sees certificate requests only.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import hvac
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.bootstrap.access import BootstrapError
from kme.bootstrap.roles import IssuingRole, is_address
from kme.errors import CredentialError
from kme.pki.authority import Leaf, TlsRole
from kme.pki.bundle import Credential, CredentialFiles, load_credential, write_credential
from kme.pki.site import RENEW_BEFORE

SECRET_MODE: Final = 0o640
"""The folder's group is the one service that may read what lies in it."""

_USES: Final = {
    TlsRole.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
    TlsRole.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate of the site.

    Parameters
    ----------
    role
        Which CA signs it, and under which role.
    leaf
        What it says.
    issuers
        The CA's certificate, and those above it that are sent along.
    files
        Where it lies.
    """

    role: IssuingRole
    leaf: Leaf
    issuers: tuple[x509.Certificate, ...]
    files: CredentialFiles


def is_current(wanted: Wanted, now: datetime) -> bool:
    """Return whether the files hold just this, under this CA, for a while yet."""
    try:
        credential = load_credential(wanted.files, now)
    except CredentialError:
        return False  # absent, expired or half-written: it is simply made again
    return (
        credential.chain[1:] == wanted.issuers
        and _is_as_wanted(credential.certificate, wanted)
        and not _ends_soon(credential.certificate, wanted.issuers[0], now)
    )


def issue(client: hvac.Client, wanted: Wanted) -> Credential:
    """Make a key on P-256 and let Vault sign its certificate.

    Raises
    ------
    BootstrapError
        If what Vault signed is not what was asked for.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = wanted.leaf
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    names = {
        "uri_sans": list(leaf.uris),
        "alt_names": ",".join(host for host in leaf.hosts if not is_address(host)),
        "ip_sans": [host for host in leaf.hosts if is_address(host)],
        "exclude_cn_from_sans": True,
    }
    answer = client.secrets.pki.sign_certificate(
        wanted.role.name,
        csr=request.decode("ascii"),
        common_name=leaf.common_name,
        extra_params=names,
        mount_point=wanted.role.engine.mount,
    )
    certificate = x509.load_pem_x509_certificate(answer["data"]["certificate"].encode())
    if certificate.public_key() != key.public_key() or not _is_as_wanted(certificate, wanted):
        raise BootstrapError(f"{wanted.role.path}: Vault signed something else than was asked")
    return Credential((certificate, *wanted.issuers), key)


def deliver(client: hvac.Client, wanted: Wanted) -> None:
    """Issue a certificate and write it, the key first: half-written, it is made again.

    Raises
    ------
    CredentialError
        If a file cannot be written.
    """
    write_credential(issue(client, wanted), wanted.files, SECRET_MODE, SECRET_MODE)


def _is_as_wanted(certificate: x509.Certificate, wanted: Wanted) -> bool:
    """Return whether a certificate has just these names and uses, and this issuer."""
    try:
        certificate.verify_directly_issued_by(wanted.issuers[0])
        found = certificate.extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    expected = {use for role, use in _USES.items() if role in wanted.leaf.roles}
    return set(names) == set(wanted.leaf.names()) and set(uses) == expected


def _ends_soon(certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    """Return whether it is time to renew; a CA that ends first would not give a longer one."""
    end = certificate.not_valid_after_utc
    return end < now + RENEW_BEFORE and end < issuer.not_valid_after_utc
