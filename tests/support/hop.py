"""hop - what Traefik does in front of the rest service: ends mutual TLS, passes the client on."""

import base64
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

_HEADER = b"x-forwarded-tls-client-cert"
_DROPPED = (b"connection", b"transfer-encoding", b"content-length", b"date")


class Hop:
    """An ASGI application that asks another server, with the client's certificate in a header.

    Parameters
    ----------
    url
        Where the other server is.
    context
        TLS as the proxy's own client certificate has it.

    Attributes
    ----------
    n_lost
        How many requests were passed on of which no answer came.
    """

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._url = url
        self.n_lost = 0
        self._client = httpx.AsyncClient(verify=context, trust_env=False, timeout=20)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        [pem] = scope["extensions"]["tls"]["client_cert_chain"]
        der = ssl.PEM_cert_to_DER_cert(pem)
        headers = [item for item in scope["headers"] if item[0] != _HEADER]
        path = scope["raw_path"].decode() + ("?" if scope["query_string"] else "")
        try:
            answer = await self._client.request(
                scope["method"],
                f"{self._url}{path}{scope['query_string'].decode()}",
                content=body,
                headers=[*headers, (_HEADER, base64.b64encode(der))],
            )
            status, headers, body = answer.status_code, answer.headers.raw, answer.content
        except httpx.HTTPError as error:
            self.n_lost += not isinstance(error, httpx.ConnectError)
            status, headers, body = 502, [], b""
        kept = [(name, value) for name, value in headers if name.lower() not in _DROPPED]
        kept.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": body})

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
