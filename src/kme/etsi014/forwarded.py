"""forwarded - a request that Traefik passes on in, the certificate of the client behind it out.

Traefik ends the client's TLS and writes the certificate that it verified into
a header: base64 of the DER, without armour, what the client sent, leaf first,
separated by commas. The header is believed only from Traefik itself, which
shows a certificate of its own on this hop, and the certificate is verified
once more. What merely looks like such a header is never passed over: then the
request is refused.
"""

import base64
import binascii
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from cryptography import x509

from kme.clock import Clock
from kme.errors import IdentityError
from kme.etsi014.identity import certificate_of_connection
from kme.pki.identity import SERVICE_PREFIX, uri_identity
from kme.pki.issued import is_authority, require_issued

Scope: TypeAlias = Mapping[str, Any]

AuthorityOf: TypeAlias = Callable[[x509.Certificate], x509.Certificate]
"""Returns who must have issued a certificate; raises IdentityError if nobody may have."""

HEADER: Final = b"x-forwarded-tls-client-cert"

_MAX_HEADER_BYTES: Final = 24 * 1024
_MAX_CERTIFICATES: Final = 4
_CACHE_ENTRIES: Final = 1024

_SPEAKING: Final = (
    b"tls-client",
    b"ssl-client",
    b"client-cert",
    b"clientcert",
    b"client-dn",
    b"client-verify",
    b"sae-id",
    b"kme-id",
    b"service-id",
)
"""Parts of names by which proxies pass on who calls; we know one name only."""


def service_of(scope: Scope) -> str:
    """Return which of the appliance's own services made this connection.

    Raises
    ------
    IdentityError
        If its certificate does not name exactly one.
    """
    return _service_of_certificate(certificate_of_connection(scope))


@dataclass(frozen=True, slots=True)
class _Verified:
    """A certificate that the right authority issued; times in seconds since 1970."""

    certificate: x509.Certificate
    pem: str
    valid_from_s: float
    valid_to_s: float


class ForwardedCertificate:
    """The `kme.etsi014.identity.CertificateFinder` behind a proxy.

    Signatures are verified once for each text of the header; the certificate's
    times and its revocation are looked at in every request.

    Parameters
    ----------
    proxy
        The one service that may pass certificates on.
    authority_of
        Who must have issued what it passes on.
    require_good
        Raises if a certificate was revoked.
    clock
        The present time.
    """

    def __init__(
        self,
        proxy: str,
        authority_of: AuthorityOf,
        require_good: Callable[[x509.Certificate], None],
        clock: Clock,
    ) -> None:
        self._proxy = proxy
        self._authority_of = authority_of
        self._require_good = require_good
        self._clock = clock
        self._verified = lru_cache(maxsize=_CACHE_ENTRIES)(self._verify)

    def __call__(self, scope: Scope) -> str:
        """Return the client's certificate, PEM.

        Raises
        ------
        IdentityError
            If it isn't perfectly clear who calls.
        UnavailableError
            If revocation cannot be looked at now.
        """
        if service_of(scope) != self._proxy:
            raise IdentityError("this is not for services of the appliance, but for their clients")
        found = self._verified(forwarded_text(scope.get("headers", ())))
        if not found.valid_from_s <= self._clock.now_s() <= found.valid_to_s:
            raise IdentityError("the client certificate is not valid now")
        self._require_good(found.certificate)
        return found.pem

    def _verify(self, text: bytes) -> _Verified:
        certificate = leaf_of(text)
        require_issued(certificate, self._authority_of(certificate))
        return _Verified(
            certificate,
            ssl.DER_cert_to_PEM_cert(_der(text.split(b",")[0])),
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
        )


def forwarded_text(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the value of the one header that names the client.

    Raises
    ------
    IdentityError
        If it is absent, there are two, or another header speaks of a client
        as well.
    """
    found: list[bytes] = []
    for name, value in headers:
        if name == HEADER:
            found.append(value)
        elif _speaks(name):
            raise IdentityError("a header of the request says otherwise who calls")
    if len(found) != 1:
        raise IdentityError("the client's certificate was not passed on exactly once")
    return found[0]


@lru_cache(maxsize=_CACHE_ENTRIES)
def _speaks(name: bytes) -> bool:
    """Return whether a header's name sounds as if it told who calls."""
    return any(word in name.lower().replace(b"_", b"-") for word in _SPEAKING)


def leaf_of(text: bytes) -> x509.Certificate:
    """Read the client's own certificate; behind it there may be authorities only.

    Raises
    ------
    IdentityError
        If the text is anything else.
    """
    parts = text.split(b",")
    if len(text) > _MAX_HEADER_BYTES or len(parts) > _MAX_CERTIFICATES:
        raise IdentityError("the client's certificate was passed on with too much behind it")
    try:
        leaf, *others = [x509.load_der_x509_certificate(_der(part)) for part in parts]
        are_authorities = all(is_authority(other) for other in others)
    except (ValueError, binascii.Error, x509.DuplicateExtension) as error:
        raise IdentityError("the client's certificate cannot be read") from error
    if not are_authorities:
        raise IdentityError("more than one client's certificate was passed on")
    return leaf


def _der(part: bytes) -> bytes:
    """Decode base64 that is written in its one proper form."""
    der = base64.b64decode(part, validate=True)
    if base64.b64encode(der) != part:
        msg = "not the proper base64 of these bytes"
        raise ValueError(msg)
    return der


@lru_cache(maxsize=64)
def _service_of_certificate(pem: str) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
    except ValueError as error:
        raise IdentityError("the certificate of this connection cannot be read") from error
    return uri_identity(certificate, SERVICE_PREFIX)
