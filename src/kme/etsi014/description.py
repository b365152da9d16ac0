"""description - what OpenAPI says about the routes, made from the messages themselves."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from kme.etsi014.messages import (
    KEY_ID,
    MASTER_SAE_ID,
    NUMBER,
    SIZE,
    SLAVE_SAE_ID,
    Body,
    Error,
    KeyContainer,
    KeyIds,
    KeyRequest,
    Status,
)

_BODIES: Final[tuple[type[Body], ...]] = (Status, KeyRequest, KeyContainer, KeyIds, Error)
_REF: Final = "#/components/schemas/{model}"


def _content(body: type[Body]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}


def _answers(body: type[Body]) -> dict[int | str, dict[str, Any]]:
    errors = {
        400: "Bad request format, or it cannot be met",
        401: "Unauthorized",
        404: "No such path",
        405: "No such method of this path",
        413: "The body is too long",
        500: "Fault of this KME",
        503: "Error on server side: try again later",
    }
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": _content(Error)} for status, text in errors.items()
    }
    return {200: {"description": "Successful response", "content": _content(body)}, **answers}


def _sae_in_path(name: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _operation(
    name: str,
    answer: type[Body],
    parameters: list[dict[str, Any]],
    body: type[Body] | None = None,
    *,
    is_body_required: bool = False,
) -> dict[str, Any]:
    """Return FastAPI's arguments for one route."""
    extra: dict[str, Any] = {"parameters": parameters}
    if body is not None:
        extra["requestBody"] = {"required": is_body_required, "content": _content(body)}
    return {
        "operation_id": name,
        "response_model": None,
        "responses": _answers(answer),
        "openapi_extra": extra,
    }


_NATURAL: Final = {"type": "integer", "minimum": 1}
_UUID: Final = {"type": "string", "format": "uuid"}
_SLAVE: Final = _sae_in_path(SLAVE_SAE_ID)
_MASTER: Final = _sae_in_path(MASTER_SAE_ID)

STATUS: Final = _operation("get_status", Status, [_SLAVE])
ENC_KEYS: Final = _operation("get_key", KeyContainer, [_SLAVE], KeyRequest)
ENC_KEYS_BY_GET: Final = _operation(
    "get_key_simple",
    KeyContainer,
    [_SLAVE, _in_query(NUMBER, _NATURAL), _in_query(SIZE, _NATURAL)],
)
DEC_KEYS: Final = _operation(
    "get_key_with_key_ids", KeyContainer, [_MASTER], KeyIds, is_body_required=True
)
DEC_KEYS_BY_GET: Final = _operation(
    "get_key_with_key_ids_simple",
    KeyContainer,
    [_MASTER, _in_query(KEY_ID, _UUID, required=True)],
)


def describe(app: FastAPI) -> None:
    """Let the application's OpenAPI description hold the schemas of all bodies."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, definitions = models_json_schema(
                [(body, "validation") for body in _BODIES], ref_template=_REF
            )
            schema.setdefault("components", {})["schemas"] = definitions["$defs"]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
