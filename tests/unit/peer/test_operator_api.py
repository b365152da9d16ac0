import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from kme.errors import IdentityError, StoreUnavailableError
from kme.ids import KmeId, SaeId
from kme.pairing.ports import BlockTag, Comparison
from kme.peer.api import create_peer_app
from kme.registry.records import SaeList
from peering import OPERATOR_STOCK, KmeAuthority, OperatedHandler, RecordingHandler

A, B = KmeId("kme-a"), KmeId("kme-b")
PEM_A = KmeAuthority().pem("kme-a")
TAGS = [{"number": 3, "tag": "ab" * 32}, {"number": 4, "tag": "cd" * 32}]
BODIES: dict[str, dict[str, Any]] = {
    "saes": {"counter": 3, "saes": ["alice", "carol"]},
    "stock": {"key_bytes": 32},
    "compare": {"blocks": TAGS},
    "clear": {"highest": 7},
}


def post(
    what: str,
    body: object,
    handler: OperatedHandler | None,
    certificate: str | None = PEM_A,
    kme: str = "kme-b",
) -> httpx.Response:
    def find(_scope: Mapping[str, Any]) -> str:
        if certificate is None:
            raise IdentityError("nobody")
        return certificate

    async def main() -> httpx.Response:
        app = create_peer_app(B, RecordingHandler(), [A], find, handler)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://kme-b") as client:
            path = f"/kme/v1/pairs/{kme}/{what}"
            return await client.post(path, content=json.dumps(body).encode())

    return asyncio.run(main())


def test_saes_that_are_told_reach_the_handler() -> None:
    handler = OperatedHandler()
    response = post("saes", BODIES["saes"], handler)
    assert (response.status_code, response.json()) == (200, {})
    assert handler.calls == [(A, SaeList(3, (SaeId("alice"), SaeId("carol"))))]


def test_stock_is_told() -> None:
    handler = OperatedHandler()
    response = post("stock", BODIES["stock"], handler)
    assert response.json() == {
        "highest": 9,
        "settled": 8,
        "n_blocks": 3,
        "n_bytes": 4096,
        "n_keys": 128,
    }
    assert OPERATOR_STOCK.n_keys == 128
    assert handler.calls == [(A, 32)]


def test_blocks_are_compared_in_the_order_of_the_question() -> None:
    handler = OperatedHandler()
    response = post("compare", BODIES["compare"], handler)
    assert response.json() == {"found": ["equal", "absent"]}
    tags = [BlockTag(3, b"\xab" * 32), BlockTag(4, b"\xcd" * 32)]
    assert handler.calls == [(A, tags)]
    assert Comparison("equal") is Comparison.EQUAL


def test_keys_are_dropped_and_it_is_said_up_to_where() -> None:
    handler = OperatedHandler()
    assert post("clear", BODIES["clear"], handler).json() == {"highest": 9}
    assert handler.calls == [(A, 7)]


@pytest.mark.parametrize("what", BODIES)
def test_without_operations_nothing_is_there(what: str) -> None:
    assert post(what, BODIES[what], None).status_code == 404


@pytest.mark.parametrize("what", BODIES)
def test_only_peers_ask_and_only_this_kme(what: str) -> None:
    handler = OperatedHandler()
    stranger = KmeAuthority().pem("kme-c")
    assert post(what, BODIES[what], handler, None).status_code == 401
    assert post(what, BODIES[what], handler, stranger).status_code == 403
    assert post(what, BODIES[what], handler, kme="kme-c").status_code == 400
    assert handler.calls == []


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("body", [[], {}, {"more": 1}, "x", None])
def test_what_is_no_message_is_refused(what: str, body: object) -> None:
    handler = OperatedHandler()
    assert post(what, body, handler).status_code == 400
    assert handler.calls == []


@pytest.mark.parametrize("what", BODIES)
def test_a_store_that_is_sealed_is_told(what: str) -> None:
    handler = OperatedHandler(StoreUnavailableError("sealed"))
    response = post(what, BODIES[what], handler)
    assert (response.status_code, response.json()["message"]) == (503, "sealed")
