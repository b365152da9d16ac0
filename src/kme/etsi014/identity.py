"""identity - a request in, the SAE that makes it out; absent or unclear is an error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.clock import Clock
from kme.errors import IdentifierError, IdentityError
from kme.ids import SaeId
from kme.pki.identity import SAE_PREFIX, uri_identity

Scope: TypeAlias = Mapping[str, Any]
"""An ASGI connection scope."""

CertificateFinder: TypeAlias = Callable[[Scope], str]
"""Finds the caller's verified certificate, PEM; raises IdentityError if there is none."""

NameReader: TypeAlias = Callable[[x509.Certificate], SaeId]
"""Reads an SAE id from a verified certificate; raises IdentityError if that is unclear."""

_CACHE_ENTRIES: Final = 1024


class CallerIdentity(Protocol):
    """Knows who makes a request."""

    def caller(self, scope: Scope) -> SaeId:
        """Return the one SAE that makes this request.

        Raises
        ------
        IdentityError
            If that is not perfectly clear.
        """
        ...


class CertificateIdentity:
    """Tells SAEs by a verified certificate (ETSI GS QKD 014 clause 5.1).

    Where the certificate is found and how it names the SAE are two functions,
    so that a certificate forwarded by a proxy, or one that has the id in its
    subject, needs one other function and no other class.

    What was read from a certificate is remembered by the certificate's text,
    for a bounded number of certificates; its validity and the registration are
    looked at in every request, because a connection may last longer than both.

    Parameters
    ----------
    is_registered
        Whether an SAE is registered at this KME.
    clock
        The present time.
    find
        Finds the certificate.
    read
        Reads the SAE id from it.
    """

    def __init__(
        self,
        is_registered: Callable[[SaeId], bool],
        clock: Clock,
        find: CertificateFinder | None = None,
        read: NameReader | None = None,
    ) -> None:
        self._is_registered = is_registered
        self._clock = clock
        self._find = find or certificate_of_connection
        self._read = read or sae_of_uri
        self._facts = lru_cache(maxsize=_CACHE_ENTRIES)(self._read_facts)

    def caller(self, scope: Scope) -> SaeId:
        """Return the one SAE that makes this request.

        Raises
        ------
        IdentityError
            If there is no certificate, it is out of its validity, not meant
            for clients, or names no SAE that is registered here.
        """
        facts = self._facts(self._find(scope))
        now_s = self._clock.now_s()
        if not facts.valid_from_s <= now_s <= facts.valid_to_s:
            raise IdentityError("the client certificate is not valid now")
        if not self._is_registered(facts.sae):
            raise IdentityError("the SAE of the client certificate is not registered at this KME")
        return facts.sae

    def _read_facts(self, pem: str) -> "_Facts":
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        except ValueError as error:
            raise IdentityError("the client certificate cannot be read") from error
        _require_client(certificate)
        return _Facts(
            self._read(certificate),
            _unix_s(certificate.not_valid_before_utc),
            _unix_s(certificate.not_valid_after_utc),
        )


def certificate_of_connection(scope: Scope) -> str:
    """Return the leaf that the TLS server of this very process verified.

    Raises
    ------
    IdentityError
        If the connection has none.

    References
    ----------
    ASGI TLS extension 0.2, ``client_cert_chain``
    """
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    for leaf in chain:
        return str(leaf)
    raise IdentityError("no client certificate was shown")


def sae_of_uri(certificate: x509.Certificate) -> SaeId:
    """Read the SAE id from the certificate's one URI ``sae-id:<SAE id>``.

    Raises
    ------
    IdentityError
        If there is not exactly one, or what it names is no SAE id.
    """
    try:
        return SaeId(uri_identity(certificate, SAE_PREFIX))
    except IdentifierError as error:
        raise IdentityError("the URI in the client certificate names no SAE") from error


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a certificate says about its owner; times in seconds since 1970."""

    sae: SaeId
    valid_from_s: float
    valid_to_s: float


def _require_client(certificate: x509.Certificate) -> None:
    """Require the extended key usage clientAuth (RFC 5280 section 4.2.1.12)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IdentityError("the certificate does not say that it is for clients") from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise IdentityError("the certificate is not for clients")


def _unix_s(moment: datetime) -> float:
    return moment.astimezone(UTC).timestamp()
