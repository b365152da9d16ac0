"""admin - what the operator's program asks over HTTPS in, `Operations`' answers out."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from kme.errors import (
    ConflictError,
    IdentityError,
    InputError,
    KmeError,
    NotEntitledError,
    RefusedError,
    UnavailableError,
)
from kme.ids import KeyId, KmeId
from kme.pairing.operations import DEFAULT_KEY_BYTES, Operations

PREFIX: Final = "/admin/v1"
MAX_INCIDENTS: Final = 100

_STATUS: Final[tuple[tuple[type[KmeError], HTTPStatus], ...]] = (
    (IdentityError, HTTPStatus.UNAUTHORIZED),
    (NotEntitledError, HTTPStatus.FORBIDDEN),
    (RefusedError, HTTPStatus.BAD_REQUEST),
    (InputError, HTTPStatus.BAD_REQUEST),
    (ConflictError, HTTPStatus.CONFLICT),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (KmeError, HTTPStatus.INTERNAL_SERVER_ERROR),
)


class _Question(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CompareQuestion(_Question):
    """Which blocks to compare."""

    peer: Annotated[str, Field(max_length=63)]
    from_number: Annotated[int, Field(ge=1, lt=1 << KeyId.NUMBER_BITS)] = 1


class ClearQuestion(_Question):
    """Whose keys to drop or burn; the peer's name stands there twice, so that no slip does it."""

    peer: Annotated[str, Field(max_length=63)]
    confirmed: Annotated[str, Field(max_length=63)]


def create_admin_app(
    operations: Operations,
    require_operator: Callable[[Request], None],
    reload: Callable[[], Awaitable[None]],
    after_clear: Callable[[], Awaitable[None]],
) -> FastAPI:
    """Return the application behind ``/admin/v1/``.

    Parameters
    ----------
    operations
        What is done.
    require_operator
        Raises `IdentityError` or `NotEntitledError` unless the operator's own
        program calls.
    reload
        Reads the registry, the connected KMEs and revocations anew.
    after_clear
        Makes this process heed the floors that were raised.
    """
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_checked(require_operator))],
    )
    app.add_exception_handler(KmeError, _on_kme_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)

    @app.get(f"{PREFIX}/stock")
    async def stock(
        key_bytes: Annotated[int, Query(ge=1, le=KeyId.MAX_BYTES)] = DEFAULT_KEY_BYTES,
    ) -> Response:
        """Return what is in stock for each pair, at both ends."""
        found = {peer: asdict(await operations.stock(peer, key_bytes)) for peer in operations.peers}
        return JSONResponse({"key_bytes": key_bytes, "pairs": found})

    @app.get(f"{PREFIX}/status")
    async def status() -> Response:
        """Return how things stand with each peer, and the latest alarms."""
        return JSONResponse(
            {
                "peers": {peer: await _peer_state(operations, peer) for peer in operations.peers},
                "incidents": [asdict(i) for i in await operations.incidents(MAX_INCIDENTS)],
            }
        )

    @app.post(f"{PREFIX}/compare")
    async def compare(question: CompareQuestion) -> Response:
        """Compare the next blocks of one pair."""
        found = await operations.compare(KmeId(question.peer), question.from_number)
        return JSONResponse(asdict(found))

    @app.post(f"{PREFIX}/clear")
    async def clear(question: ClearQuestion) -> Response:
        """Drop all keys of one pair at both ends."""
        _require_confirmed(question)
        try:
            highest = await operations.clear(KmeId(question.peer))
        finally:
            await after_clear()
        return JSONResponse({"cleared_up_to": highest})

    @app.post(f"{PREFIX}/retire")
    async def retire(question: ClearQuestion) -> Response:
        """Burn here all keys shared with a peer that is gone for good."""
        _require_confirmed(question)
        try:
            highest = await operations.retire(KmeId(question.peer))
        finally:
            await after_clear()
        return JSONResponse({"burnt_up_to": highest})

    @app.post(f"{PREFIX}/reload")
    async def do_reload() -> Response:
        """Read the registry, the connected KMEs and revocations anew."""
        await reload()
        return JSONResponse({"reloaded": True})

    return app


def _require_confirmed(question: ClearQuestion) -> None:
    if question.confirmed != question.peer:
        raise InputError("confirm by the name of the same peer")


async def _peer_state(operations: Operations, peer: KmeId) -> dict[str, Any]:
    state = await operations.state(peer)
    record = state.record
    return {
        "is_alive": state.reason is None,
        "reason": state.reason,
        "highest": record.highest,
        "settled": record.last.proposal.number if record.last else 0,
        "peer_settled": record.peer_settled,
        "has_open_proposal": record.open_proposal is not None,
        "floor_allocate": record.floor_allocate,
        "floor_draw": record.floor_draw,
    }


def _checked(require: Callable[[Request], None]) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:  # FastAPI would run others in a thread
        require(request)

    return check


def _problem(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status)


async def _on_kme_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, KmeError)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return _problem(status, error.code, error.message)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = sorted({".".join(map(str, fault["loc"])) for fault in error.errors()})
    return _problem(HTTPStatus.BAD_REQUEST, "request", f"not as expected: {', '.join(fields)}")


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "fault", "this KME made a mistake")
