"""issued - a client certificate and an authority in; whether the one issued the other out.

What a TLS server verified in its handshake is verified here once more, for a
certificate that another process passes on.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.errors import IdentityError


def require_issued(certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """Return if `authority` itself issued `certificate`, to a client.

    Times and revocation are not looked at: they change, and this does not.

    Parameters
    ----------
    certificate
        What a client showed.
    authority
        The issuing authority; a certificate issued by one under it is refused.

    Raises
    ------
    IdentityError
        If it did not, or the certificate is an authority's, or not for clients
        that sign, or says something critical that isn't understood here.
    """
    try:
        certificate.verify_directly_issued_by(authority)
        _require_client(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise IdentityError("the client certificate is not from the authority here") from error
    except (x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise IdentityError("the client certificate does not say what it is for") from error


_UNDERSTOOD = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
    }
)


def _require_client(certificate: x509.Certificate) -> None:
    extensions = certificate.extensions
    if any(e.critical and e.oid not in _UNDERSTOOD for e in extensions):
        raise IdentityError("the client certificate has a critical extension unknown here")
    if is_authority(certificate):
        raise IdentityError("the client certificate is that of an authority")
    if not extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise IdentityError("the client certificate's key is not for signatures")
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise IdentityError("the client certificate is not for clients")


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether a certificate says that its key may issue others (RFC 5280 4.2.1.9).

    Raises
    ------
    ValueError
        If its extensions cannot be read.
    """
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca
