"""api - what a peer KME sends over HTTPS in, `PeerHandler`'s answers out."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar

from cryptography import x509
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kme.errors import (
    IdentifierError,
    IdentityError,
    InputError,
    KmeError,
    NotEntitledError,
    PairingError,
    RefusedError,
    RequestError,
    UnavailableError,
)
from kme.ids import KmeId
from kme.pairing.ports import OperatorHandler, PeerHandler
from kme.peer.messages import (
    CLEAR_PATH,
    COMPARE_PATH,
    GRANTS_PATH,
    HEARTBEAT_PATH,
    HELD_PATH,
    MAX_BODY_BYTES,
    PROPOSAL_PATH,
    SAES_PATH,
    STOCK_PATH,
    ClearMessage,
    ComparedMessage,
    CompareMessage,
    DoneMessage,
    GrantsMessage,
    HeartbeatAnswerMessage,
    HeartbeatMessage,
    HeldMessage,
    Message,
    ProblemMessage,
    ProposalMessage,
    SaesMessage,
    StockMessage,
    StockQuestionMessage,
    VerdictMessage,
)
from kme.peer.restore_messages import (
    AGREE_RESTORE_PATH,
    ASK_RESTORE_PATH,
    RestoreChallengeMessage,
    RestoreConsentMessage,
    RestoreQuestionMessage,
    RestoreTermsMessage,
)
from kme.pki.identity import KME_PREFIX, uri_identity
from kme.supply.grants import GrantHandler

M = TypeVar("M", bound=Message)

CertificateFinder: TypeAlias = Callable[[Mapping[str, Any]], str]
"""Finds the caller's verified certificate, PEM, in an ASGI scope; raises IdentityError."""

_STATUS: Final[tuple[tuple[type[KmeError], HTTPStatus], ...]] = (
    (IdentityError, HTTPStatus.UNAUTHORIZED),
    (NotEntitledError, HTTPStatus.FORBIDDEN),
    (RefusedError, HTTPStatus.BAD_REQUEST),
    (InputError, HTTPStatus.BAD_REQUEST),
    (PairingError, HTTPStatus.CONFLICT),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (KmeError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


def create_peer_app(
    local: KmeId,
    handler: PeerHandler,
    peers: Collection[KmeId],
    find: CertificateFinder | None = None,
    operations: OperatorHandler | None = None,
    *,
    grants: GrantHandler | None = None,
) -> FastAPI:
    """Return the application of the private interface between KMEs.

    It must be served with mutual TLS under the CA of the KMEs; who calls is
    read from the verified client certificate, by default the one that the
    server puts into the scope (ASGI TLS extension).

    Parameters
    ----------
    local
        This KME; requests that are addressed to another one are refused.
    handler
        What the messages are for.
    peers
        Who may call.
    find
        Finds the caller's verified certificate, if it is elsewhere.
    operations
        What operators' messages are for; without it there are none.
    grants
        Keeps keys for further slaves; without it none are taken.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    routes = _Routes(local, handler, frozenset(peers), find or _certificate_of_connection)
    endpoints: tuple[tuple[str, Callable[[str, Request], Awaitable[Response]]], ...] = (
        (HEARTBEAT_PATH, routes.heartbeat),
        (HELD_PATH, routes.held),
        (PROPOSAL_PATH, routes.proposal),
        (ASK_RESTORE_PATH, routes.ask_restore),
        (AGREE_RESTORE_PATH, routes.agree_restore),
    )
    if operations is not None:
        asked = _OperatorRoutes(operations, routes.caller)
        endpoints += (
            (SAES_PATH, asked.saes),
            (STOCK_PATH, asked.stock),
            (COMPARE_PATH, asked.compare),
            (CLEAR_PATH, asked.clear),
        )
    if grants is not None:
        endpoints += ((GRANTS_PATH, _GrantRoute(grants, routes.caller).grants),)
    for path, endpoint in endpoints:
        app.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    app.add_exception_handler(KmeError, _on_kme_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    return app


class _Routes:
    """What a peer asks of pairing."""

    def __init__(
        self,
        local: KmeId,
        handler: PeerHandler,
        peers: frozenset[KmeId],
        find: CertificateFinder,
    ) -> None:
        self._local = local
        self._handler = handler
        self._peers = peers
        self._find = find

    async def heartbeat(self, kme: str, request: Request) -> Response:
        """Judge a heartbeat."""
        peer = self.caller(kme, request)
        message = await _read(request, HeartbeatMessage)
        answer = await self._handler.on_heartbeat(peer, message.to_heartbeat())
        return _answer(HeartbeatAnswerMessage.of(answer))

    async def held(self, kme: str, request: Request) -> Response:
        """Say which final keys are held."""
        peer = self.caller(kme, request)
        message = await _read(request, HeldMessage)
        return _answer(HeldMessage.of(await self._handler.on_held(peer, message.to_refs())))

    async def proposal(self, kme: str, request: Request) -> Response:
        """Decide about a proposal."""
        peer = self.caller(kme, request)
        message = await _read(request, ProposalMessage)
        verdict = await self._handler.on_propose(peer, message.to_proposal())
        return _answer(VerdictMessage(verdict=verdict))

    async def ask_restore(self, kme: str, request: Request) -> Response:
        """Give a restored peer a challenge."""
        peer = self.caller(kme, request)
        message = await _read(request, RestoreQuestionMessage)
        challenge = await self._handler.on_ask_restore(peer, message.incarnation)
        return _answer(RestoreChallengeMessage.of(challenge))

    async def agree_restore(self, kme: str, request: Request) -> Response:
        """Accept a peer's restore."""
        peer = self.caller(kme, request)
        message = await _read(request, RestoreTermsMessage)
        consent = await self._handler.on_agree_restore(peer, message.to_terms())
        return _answer(RestoreConsentMessage.of(consent))

    def caller(self, addressed: str, request: Request) -> KmeId:
        """Return the peer that calls, if it is one and means this KME."""
        peer = _identity(self._find(request.scope))
        if peer not in self._peers:
            raise NotEntitledError(f"KME {peer} is not a peer of KME {self._local}")
        if addressed != self._local:
            raise RequestError(f"this is KME {self._local}, not the one that is addressed")
        return peer


class _GrantRoute:
    """What a peer hands over for further slaves."""

    def __init__(self, handler: GrantHandler, caller: Callable[[str, Request], KmeId]) -> None:
        self._handler = handler
        self._caller = caller

    async def grants(self, kme: str, request: Request) -> Response:
        """Keep keys; what is answered is durable."""
        peer = self._caller(kme, request)
        message = await _read(request, GrantsMessage)
        await self._handler.on_delivery(peer, message.to_delivery())
        return _answer(DoneMessage())


class _OperatorRoutes:
    """What a peer asks because its operator does, or to tell who its SAEs are."""

    def __init__(self, handler: OperatorHandler, caller: Callable[[str, Request], KmeId]) -> None:
        self._handler = handler
        self._caller = caller

    async def saes(self, kme: str, request: Request) -> Response:
        """Take note of the peer's SAEs."""
        peer = self._caller(kme, request)
        message = await _read(request, SaesMessage)
        await self._handler.on_saes(peer, message.to_list())
        return _answer(DoneMessage())

    async def stock(self, kme: str, request: Request) -> Response:
        """Say what is in stock."""
        peer = self._caller(kme, request)
        message = await _read(request, StockQuestionMessage)
        return _answer(StockMessage.of(await self._handler.on_stock(peer, message.key_bytes)))

    async def compare(self, kme: str, request: Request) -> Response:
        """Say which blocks are the same."""
        peer = self._caller(kme, request)
        message = await _read(request, CompareMessage)
        return _answer(
            ComparedMessage(found=await self._handler.on_compare(peer, message.to_tags()))
        )

    async def clear(self, kme: str, request: Request) -> Response:
        """Drop all keys of the pair."""
        peer = self._caller(kme, request)
        message = await _read(request, ClearMessage)
        return _answer(ClearMessage(highest=await self._handler.on_clear(peer, message.highest)))


def _certificate_of_connection(scope: Mapping[str, Any]) -> str:
    """Return the certificate that the TLS server of this very process verified."""
    tls = scope.get("extensions", {}).get("tls") or {}
    for leaf in tls.get("client_cert_chain") or ():
        return str(leaf)
    raise IdentityError("a client certificate is needed here")


@lru_cache(maxsize=64)
def _identity(pem: str) -> KmeId:
    """Return who a verified client certificate speaks for."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        return KmeId(uri_identity(certificate, KME_PREFIX))
    except (ValueError, IdentifierError) as error:
        raise IdentityError("the client certificate names no KME") from error


async def _read(request: Request, kind: type[M]) -> M:
    """Return the body as a message.

    Raises
    ------
    RequestError
        If it is too long, ends early, or isn't such a message; what it says
        instead is not repeated.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise RequestError(f"a body has at most {MAX_BODY_BYTES} bytes")
    except ClientDisconnect as error:
        raise RequestError("the body ended early") from error
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        # Not chained: the cause would carry the input into a log.
        fields = sorted({".".join(map(str, fault["loc"])) or "body" for fault in error.errors()})
        raise RequestError(f"not as expected: {', '.join(fields[:5])}") from None


def _answer(message: Message, status: int = HTTPStatus.OK) -> Response:
    return Response(message.model_dump_json(), status, media_type="application/json")


def _problem(status: int, code: str, message: str) -> Response:
    return _answer(ProblemMessage(code=code, message=message[:1024]), status)


async def _on_kme_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, KmeError)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return _problem(status, error.code, error.message)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, "http", HTTPStatus(error.status_code).phrase)


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "fault", "this KME made a mistake")
