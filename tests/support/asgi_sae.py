"""asgi_sae - calls an ASGI application as an SAE would, without sockets."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding

from kme.clock import SystemClock
from kme.etsi014.api import create_app
from kme.etsi014.identity import CertificateIdentity
from kme.etsi014.offer import Offer
from kme.ids import KmeId, SaeId
from kme.pki.bundle import Credential
from kme.supply.ports import KeySupply

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def tls_extension(credential: Credential) -> dict[str, Any]:
    """Return what a server puts into the scope for this client."""
    pem = credential.certificate.public_bytes(Encoding.PEM).decode()
    return {"tls": {"client_cert_chain": (pem,)}}


def app_for(
    supply: KeySupply, kme: KmeId, residents: set[SaeId], offer: Offer | None = None
) -> Any:
    """Return the application of a KME with these SAEs."""
    identity = CertificateIdentity(residents.__contains__, SystemClock())
    return create_app(supply, identity, offer or Offer(kme))


def asgi_client(app: Any, credential: Credential) -> httpx.AsyncClient:
    """Return a client whose requests arrive with a certificate."""
    extensions = tls_extension(credential)

    async def with_certificate(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": extensions}, receive, send)

    transport = httpx.ASGITransport(with_certificate, raise_app_exceptions=False)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="https://kme")
