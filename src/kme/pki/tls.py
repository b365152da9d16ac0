"""tls - certificate files in, TLS contexts out: version 1.3, both sides verified, no tickets."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from cryptography import x509

from kme.errors import CredentialError, IdentityError
from kme.pki.bundle import CredentialFiles, load_certificates, load_credential, load_revocation_list
from kme.pki.identity import uri_identity


def server_context(
    own: CredentialFiles, trusted: Path, revoked: Path | None = None
) -> ssl.SSLContext:
    """Return the context of a server that asks every client for a certificate.

    Parameters
    ----------
    own
        What the server shows.
    trusted
        The authorities that may have issued a client's certificate, PEM. They
        are the only anchors: with an issuing authority here, a sister authority
        under the same root is not believed.
    revoked
        Revocation list of that authority, PEM; None if none is checked.

    Raises
    ------
    CredentialError
        If a file cannot be used; the message names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    _set_up(context, own, trusted, revoked)
    return context


def client_context(
    own: CredentialFiles,
    trusted: Path,
    server_uri: str | None = None,
    revoked: Path | None = None,
) -> ssl.SSLContext:
    """Return the context of a client that shows a certificate.

    The server's host name is checked always. With `server_uri` so is who it
    is, within the handshake: nothing is sent to another server.

    Parameters
    ----------
    own
        What the client shows.
    trusted
        The authorities that may have issued the server's certificate, PEM.
    server_uri
        The URI that the server's certificate must carry, such as
        ``kme-id:kme-a``; None if its host name is enough.
    revoked
        Revocation list of the trusted authority, PEM; None if none is checked.

    Raises
    ------
    CredentialError
        If a file cannot be used; the message names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    _set_up(context, own, trusted, revoked)
    if server_uri is not None:
        _expect_server(context, server_uri)
    return context


def explain(error: ssl.SSLError) -> str:
    """Return in words why a handshake failed, for a log or an error message."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message: str = getattr(error, "verify_message", "") or str(error.args[-1])
        return f"certificate refused: {message}"
    reason: str | None = error.reason
    return (reason or str(error)).replace("_", " ").lower()


def _set_up(
    context: ssl.SSLContext, own: CredentialFiles, trusted: Path, revoked: Path | None
) -> None:
    now = datetime.now(UTC)
    load_credential(own, now)
    load_certificates(trusted, now)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_cert_chain(own.certificate, own.key)
        context.load_verify_locations(cafile=trusted)
        if revoked is not None:
            load_revocation_list(revoked, now)
            context.load_verify_locations(cafile=revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(
            f"{own.certificate}: TLS does not take this certificate, its key {own.key}, the "
            f"authorities {trusted} or their revocation list: {error}"
        ) from error


def _expect_server(context: ssl.SSLContext, uri: str) -> None:
    """Make every handshake of this context end in an error unless the server is `uri`.

    `sslobject_class` and `sslsocket_class` are the ssl module's own hooks for
    this; both are set, so that no way of using the context skips the check.
    """

    class NamedObject(_NamedObject):
        expected_uri = uri

    class NamedSocket(_NamedSocket):
        expected_uri = uri

    context.sslobject_class = NamedObject
    context.sslsocket_class = NamedSocket


class _NamedObject(ssl.SSLObject):
    expected_uri: ClassVar[str]

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_server(self.getpeercert(binary_form=True), self.expected_uri)


class _NamedSocket(ssl.SSLSocket):
    expected_uri: ClassVar[str]

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_server(self.getpeercert(binary_form=True), self.expected_uri)


def _check_server(der: bytes | None, expected_uri: str) -> None:
    prefix = expected_uri[: expected_uri.index(":") + 1]
    try:
        certificate = x509.load_der_x509_certificate(der or b"")
        found = prefix + uri_identity(certificate, prefix)
    except (IdentityError, ValueError) as error:
        raise ssl.SSLCertVerificationError(
            ssl.SSL_ERROR_SSL, f"the server does not say that it is {expected_uri}: {error}"
        ) from error
    if found != expected_uri:
        raise ssl.SSLCertVerificationError(
            ssl.SSL_ERROR_SSL, f"the server is {found}, not {expected_uri}"
        )
