"""The OpenAPI description: complete, without loose ends, and in the standard's names."""

from collections.abc import Iterator
from typing import Any

import pytest

from asgi_sae import app_for
from kme.ids import KmeId, SaeId
from memory_supply import MemoryLink

A = KmeId("kme-a")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    app = app_for(MemoryLink({}).supply_at(A), A, {SaeId("alice")})
    described: dict[str, Any] = app.openapi()
    return described


def test_it_is_made_once() -> None:
    app = app_for(MemoryLink({}).supply_at(A), A, {SaeId("alice")})
    assert app.openapi() is app.openapi()


def operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in schema["paths"].values():
        yield from item.values()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    found = set(references(schema))
    assert len(found) >= 5
    for reference in found:
        place: Any = schema
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place["type"] == "object"


def test_every_operation_declares_the_error_body(schema: dict[str, Any]) -> None:
    for operation in operations(schema):
        answers = operation["responses"]
        assert {"200", "400", "401", "503", "404", "405", "413", "500"} == set(answers)
        for status, answer in answers.items():
            [content] = answer["content"].values()
            is_error = content["schema"]["$ref"].endswith("/Error")
            assert is_error == (status != "200")


def test_operations_have_names_of_their_own(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(schema)]
    assert len(set(names)) == 5


def test_path_parameters_are_declared_once(schema: dict[str, Any]) -> None:
    for path, item in schema["paths"].items():
        for operation in item.values():
            in_path = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
            assert [f"{{{name}}}" in path for name in in_path] == [True]


def test_members_have_their_wire_names(schema: dict[str, Any]) -> None:
    schemas = schema["components"]["schemas"]
    assert set(schemas["KeyIds"]["properties"]) == {"key_IDs", "key_IDs_extension"}
    assert "source_KME_ID" in schemas["Status"]["required"]
    assert schemas["KeyRequest"].get("required", []) == []
