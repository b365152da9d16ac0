"""identity - a verified certificate in, the one name that it speaks for out."""

from typing import Final

from cryptography import x509

from kme.errors import IdentityError

SAE_PREFIX: Final = "sae-id:"
"""What the URI in an SAE's certificate begins with; the SAE id follows."""

KME_PREFIX: Final = "kme-id:"
"""What the URI in a KME's certificate begins with; the KME id follows."""

SERVICE_PREFIX: Final = "service-id:"
"""What the URI in the certificate of one of the appliance's own services begins with."""


def uri_identity(certificate: x509.Certificate, prefix: str) -> str:
    """Read the identity that stands behind `prefix` in a certificate's URIs.

    The certificate must have been verified before: this function only reads.
    How a certificate carries an id is out of scope of ETSI GS QKD 014; a URI
    in the subject alternative name (RFC 5280 section 4.2.1.6) is this
    system's default.

    Parameters
    ----------
    certificate
        The leaf certificate of the caller.
    prefix
        `SAE_PREFIX`, `KME_PREFIX` or `SERVICE_PREFIX`.

    Returns
    -------
    str
        What follows the prefix; not checked further.

    Raises
    ------
    IdentityError
        If there is no such URI, or more than one, or nothing behind the prefix,
        or the names cannot be read.
    """
    found = [uri for uri in _uris(certificate) if uri.startswith(prefix)]
    if not found:
        raise IdentityError(f"the certificate has no URI that begins with {prefix!r}")
    if len(found) > 1:
        raise IdentityError(f"the certificate has more than one URI that begins with {prefix!r}")
    identity = found[0].removeprefix(prefix)
    if not identity:
        raise IdentityError(f"the certificate names nobody behind {prefix!r}")
    return identity


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension) as error:
        raise IdentityError("the certificate's names cannot be read") from error
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)
