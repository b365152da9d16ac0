"""problems - an exception in, HTTP status and Error body out: the only such table."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route

from kme.errors import (
    ConflictError,
    CredentialError,
    EpochFileError,
    IdentityError,
    InputError,
    IntegrityError,
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RefusedError,
    RequestFieldError,
    SettingsError,
    StoreUnavailableError,
    UnavailableError,
)
from kme.etsi014.messages import Error

_logger = logging.getLogger(__name__)

KEYS_NOT_FOUND: Final = "one or more keys specified are not found on KME"
"""Text prescribed by ETSI GS QKD 014 V1.1.1."""

SERVER_ERROR: Final = "error on server side"
"""The standard's own words for status 503; all that strangers learn of a fault here."""

NO_SERVICE: Final = "keys for this pair of SAEs are out of service at this KME"

RETRY_AFTER_S: Final = 2
MEDIA_TYPE: Final = "application/json"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Rule:
    """How one class of exceptions is told to an SAE.

    Parameters
    ----------
    error
        The class; derived classes follow it unless they have a rule before it.
    status
        HTTP status.
    code
        For programs: value of the detail ``kme_error``; None for no detail.
    message
        The text; None for the exception's own.
    """

    error: type[KmeError]
    status: HTTPStatus
    code: str | None
    message: str | None = None


RULES: Final = (
    Rule(KeyNotFoundError, HTTPStatus.BAD_REQUEST, "key_not_found", KEYS_NOT_FOUND),
    Rule(IdentityError, HTTPStatus.UNAUTHORIZED, "identity"),
    Rule(NotEntitledError, HTTPStatus.UNAUTHORIZED, "not_entitled"),
    Rule(RequestFieldError, HTTPStatus.BAD_REQUEST, None),
    Rule(RefusedError, HTTPStatus.BAD_REQUEST, "request"),
    Rule(EpochFileError, HTTPStatus.INTERNAL_SERVER_ERROR, None, SERVER_ERROR),
    Rule(SettingsError, HTTPStatus.INTERNAL_SERVER_ERROR, None, SERVER_ERROR),
    Rule(CredentialError, HTTPStatus.INTERNAL_SERVER_ERROR, None, SERVER_ERROR),
    Rule(InputError, HTTPStatus.BAD_REQUEST, "request"),
    Rule(OutOfKeysError, HTTPStatus.SERVICE_UNAVAILABLE, "out_of_keys"),
    Rule(PeerUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "peer_unavailable"),
    Rule(StoreUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
    Rule(UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    Rule(ConflictError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", SERVER_ERROR),
    Rule(IntegrityError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", NO_SERVICE),
    Rule(KmeError, HTTPStatus.INTERNAL_SERVER_ERROR, None, SERVER_ERROR),
)
"""The first rule that fits holds. The standard knows 400, 401 and 503 only."""

CODE_MEMBER: Final = "kme_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes over the wire."""

    status: int
    message: str
    details: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Return it with its Error body."""
        details = [dict(detail) for detail in self.details] or None
        return Response(
            Error(message=self.message, details=details).to_json(),
            status_code=self.status,
            media_type=MEDIA_TYPE,
            headers={**HEADERS, **self.headers},
        )


def problem_of(error: KmeError) -> Problem:
    """Return how an exception is told to an SAE.

    Operators learn more: what is no refusal is logged with its diagnostics.
    """
    rule = next(rule for rule in RULES if isinstance(error, rule.error))
    _log(error, rule.status)
    details: Sequence[Mapping[str, Any]] = ()
    if isinstance(error, RequestFieldError):
        details = error.fields
    elif rule.code is not None:
        details = ({CODE_MEMBER: rule.code},)
    headers = {}
    if rule.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return Problem(rule.status, rule.message or error.message, details, headers)


def install(app: FastAPI) -> None:
    """Let every error of an application have an Error body."""
    app.add_exception_handler(KmeError, _on_kme_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_fault)


async def _on_kme_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, KmeError)
    return problem_of(error).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Tell what is wrong before any of our code saw the request: 404, 405, 413."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return Problem(error.status_code, str(error.detail), headers=headers).response()


async def _on_disconnect(_: Request, __: Exception) -> Response:
    """Answer nobody: the client went away within its own request."""
    return Problem(HTTPStatus.BAD_REQUEST, "the request ended too early").response()


async def _on_fault(_: Request, __: Exception) -> Response:
    """Tell that we have a bug; the server logs it with its traceback."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, SERVER_ERROR).response()


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes of this path (RFC 9110 section 10.2.1)."""
    routes: list[BaseRoute] = request.app.routes
    methods = {
        method
        for route in routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(methods)


def _log(error: KmeError, status: HTTPStatus) -> None:
    if isinstance(error, RefusedError | InputError) and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.INFO
    elif isinstance(error, UnavailableError):
        level = logging.WARNING
    else:
        level = logging.ERROR
    _logger.log(level, "answered with an error", extra={"error": error.diagnostics()})
