"""client - certificate files in, a client of Vault out: TLS 1.3, each request sent just once."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import hvac
import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse

from kme.errors import CredentialError
from kme.secret import Secret

_BASE: Final = "https://"


class ClientFiles(Protocol):
    """Where the certificate lies that Vault is shown, and its key."""

    @property
    def certificate(self) -> Path:
        """The certificate and its issuers, PEM."""

    @property
    def key(self) -> Path:
        """Its private key, PEM."""


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is and who we are.

    Parameters
    ----------
    url
        ``https://host:port``.
    ca
        The authority that Vault's own certificate hangs under, PEM.
    credential
        The certificate that is shown to Vault, and its key.
    role
        Role of Vault's certificate login; None for a session that never logs
        in (seal status, unsealing, public certificates).
    timeout_s
        How long one request may wait for Vault.
    """

    url: str
    ca: Path
    credential: ClientFiles
    role: str | None = None
    timeout_s: float = 5.0


def tls_context(access: VaultAccess) -> ssl.SSLContext:
    """Return the context for connections to Vault, its files read from disk just now.

    Raises
    ------
    CredentialError
        If the address is not https, or a file cannot be used; the message names it.
    """
    own = access.credential
    if not access.url.startswith(_BASE):
        raise CredentialError(f"{access.url}: Vault's address must begin with {_BASE}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_TICKET
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=access.ca)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(f"{access.ca}: not usable as Vault's authority: {error}") from error
    try:
        # An encrypted key is refused; without this, OpenSSL would ask the terminal.
        context.load_cert_chain(own.certificate, own.key, password="")
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(
            f"{own.certificate}: not usable with its key {own.key}: {error}"
        ) from error
    return context


def connect(
    access: VaultAccess, token: Secret | None = None, context: ssl.SSLContext | None = None
) -> hvac.Client:
    """Return a client for one thread; it connects with its first request.

    Whoever gets it closes it (`client.adapter.close()`).

    Parameters
    ----------
    access
        Where Vault is and who we are.
    token
        What Vault knows us by; None for requests that need no token.
    context
        An earlier result of `tls_context`; None to read the files now.

    Raises
    ------
    CredentialError
        If a certificate file cannot be used.
    """
    session = requests.Session()
    # No proxies, .netrc or CA bundles out of the environment.
    session.trust_env = False
    session.adapters.clear()
    session.mount(_BASE, _Adapter(context or tls_context(access)))
    return hvac.Client(
        url=access.url,
        # Empty, not None: hvac would look into the environment and the home folder.
        token="" if token is None else token.reveal().decode(),
        cert=(),
        verify=True,
        timeout=access.timeout_s,
        allow_redirects=False,
        session=session,
    )


class _Adapter(HTTPAdapter):
    """Connections under one TLS context; each request is sent once, to the place it names."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,
        **pool_kwargs: Any,  # noqa: ANN401 - as urllib3 takes them
    ) -> None:
        """Make the pool of connections, under our own context."""
        pool_kwargs["ssl_context"] = self._context
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)

    def build_response(
        self, req: requests.PreparedRequest, resp: BaseHTTPResponse
    ) -> requests.Response:
        """Return the answer to one request.

        Raises
        ------
        requests.TooManyRedirects
            If Vault points elsewhere: hvac would take that for success.
        """
        response = super().build_response(req, resp)
        if response.is_redirect:
            response.close()
            raise requests.TooManyRedirects("Vault points to another address", response=response)
        return response
