"""Keys for further slaves between two KMEs: from one end of the wire to the other."""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kme.errors import (
    InputError,
    KeyNotFoundError,
    KmeError,
    PeerUnavailableError,
    RequestError,
    StoreUnavailableError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.peer.api import create_peer_app
from kme.peer.client import HttpPeerLink
from kme.peer.messages import MAX_BODY_BYTES, GrantsMessage
from kme.pki.tls import client_context, server_context
from kme.server import MutualTlsServer
from kme.supply.grants import (
    MAX_DELIVERED_BYTES,
    MAX_DELIVERED_KEYS,
    MAX_SLAVES,
    Delivery,
    MaskedKey,
    deliveries,
)
from peering import KmeAuthority, RecordingHandler

A, B = KmeId("kme-a"), KmeId("kme-b")
AUTHORITY = KmeAuthority()
ALICE, BOB = SaeId("alice"), SaeId("bob/2")
IDS = (KeyId(1, 8, 5, 7), KeyId(2**34 - 1, 8191, 5, 2**62 - 1))
DELIVERY = Delivery(ALICE, (BOB, SaeId("eve")), (MaskedKey(*IDS, b"12345"),))
BODY: dict[str, Any] = json.loads(GrantsMessage.of(DELIVERY).model_dump_json())


@dataclass
class Recording:
    """A `GrantHandler` that remembers what it was handed and may refuse it."""

    error: KmeError | None = None
    calls: list[tuple[KmeId, Delivery]] = field(default_factory=list)

    async def on_delivery(self, peer: KmeId, delivery: Delivery) -> None:
        self.calls.append((peer, delivery))
        if self.error is not None:
            raise self.error


def post(
    body: object, handler: Recording | None, certificate: str = "kme-a", kme: str = "kme-b"
) -> httpx.Response:
    pem = AUTHORITY.pem(certificate)

    def find(_scope: Mapping[str, Any]) -> str:
        return pem

    async def main() -> httpx.Response:
        app = create_peer_app(B, RecordingHandler(), [A], find, grants=handler)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://kme-b") as client:
            path = f"/kme/v1/pairs/{kme}/grants"
            return await client.post(path, content=json.dumps(body).encode())

    return asyncio.run(main())


@settings(max_examples=30)
@given(
    st.lists(st.from_regex(r"[\x21-\x7e]{1,128}", fullmatch=True), min_size=2, unique=True),
    st.binary(min_size=1, max_size=8192),
)
def test_a_delivery_survives_the_wire(names: list[str], masked: bytes) -> None:
    slaves = tuple(SaeId(name) for name in names[1:][:MAX_SLAVES])
    ids = (KeyId(1, 8, len(masked), 7), KeyId(2, 9, len(masked), 8))
    delivery = Delivery(SaeId(names[0]), slaves, (MaskedKey(*ids, masked),))
    text = GrantsMessage.of(delivery).model_dump_json()
    assert GrantsMessage.model_validate_json(text).to_delivery() == delivery


@pytest.mark.parametrize(
    "wrong",
    [
        {"master": 1},
        {"master": "a" * 129},
        {"slaves": []},
        {"slaves": [f"sae-{n}" for n in range(MAX_SLAVES + 1)]},
        {"keys": []},
        {"keys": BODY["keys"] * (MAX_DELIVERED_KEYS + 1)},
        {"keys": [BODY["keys"][0] | {"masked": "A" * 10925}]},
        {"keys": [BODY["keys"][0] | {"key_id": "1"}]},
        {"keys": [BODY["keys"][0] | {"pad_id": None}]},
        {"more": 1},
    ],
)
def test_a_delivery_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GrantsMessage.model_validate_json(json.dumps(BODY | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"master": "a b"},
        {"slaves": ["bob", ""]},
        {"slaves": ["bob", "bob"]},
        {"keys": BODY["keys"] * 2},
        {"keys": [BODY["keys"][0] | {"masked": "1234"}]},
        {"keys": [BODY["keys"][0] | {"masked": "12345"}]},
        {"keys": [BODY["keys"][0] | {"masked": "é==="}]},
        {"keys": [BODY["keys"][0] | {"pad_id": "0" * 36}]},
        {"keys": [BODY["keys"][0] | {"key_id": str(IDS[0])[:14] + "4" + str(IDS[0])[15:]}]},
    ],
)
def test_a_delivery_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    handler = Recording()
    assert post(BODY | wrong, handler).status_code == 400
    assert handler.calls == []


def test_a_delivery_reaches_the_handler_with_its_sender() -> None:
    handler = Recording()
    response = post(BODY, handler)
    assert (response.status_code, response.json()) == (200, {})
    assert handler.calls == [(A, DELIVERY)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestError("not here"), 400),
        (KeyNotFoundError("no pad"), 400),
        (InputError("another key"), 400),
        (StoreUnavailableError("sealed"), 503),
        (PeerUnavailableError("not heard"), 503),
    ],
)
def test_a_refusal_is_told(error: KmeError, status: int) -> None:
    response = post(BODY, Recording(error))
    assert response.status_code == status
    assert response.json() == {"code": error.code, "message": error.message}
    assert base64.b64encode(b"12345").decode() not in response.text


def test_who_is_no_peer_or_means_another_kme_is_not_heard() -> None:
    handler = Recording()
    assert post(BODY, handler, certificate="kme-c").status_code == 403
    assert post(BODY, handler, kme="kme-c").status_code == 400
    assert handler.calls == []
    assert post(BODY, None).status_code == 404


def test_the_largest_deliveries_fit_into_a_body() -> None:
    slaves = tuple(SaeId(f"{n:02}" + '"' * 126) for n in range(MAX_SLAVES))
    for n_bytes in (1, 768, 8192):
        ids = (KeyId(n, 8, n_bytes, 7) for n in range(2 * MAX_DELIVERED_KEYS + 2))
        keys = [MaskedKey(key_id, next(ids), bytes(n_bytes)) for key_id in ids]
        first = next(iter(deliveries(slaves[0], slaves, keys)))
        assert sum(len(key.masked) for key in first.keys) <= MAX_DELIVERED_BYTES
        assert len(GrantsMessage.of(first).model_dump_json()) < MAX_BODY_BYTES


def test_a_delivery_goes_over_mutual_tls(tmp_path: Path) -> None:
    handler = Recording()

    async def main() -> None:
        trusted = AUTHORITY.write_trust(tmp_path)
        app = create_peer_app(B, RecordingHandler(), [A], grants=handler)
        context = server_context(AUTHORITY.write(tmp_path, "kme-b"), trusted)
        server = MutualTlsServer(app, context, "127.0.0.1", 0)
        await server.start()
        own = client_context(AUTHORITY.write(tmp_path, "kme-a"), trusted, "kme-id:kme-b")
        try:
            async with HttpPeerLink(B, f"https://127.0.0.1:{server.port}", own) as link:
                await link.deliver(DELIVERY)
                assert handler.calls == [(A, DELIVERY)]
                handler.error = KeyNotFoundError("no pad")
                with pytest.raises(PeerUnavailableError, match="no pad"):
                    await link.deliver(DELIVERY)
        finally:
            await server.stop()

    asyncio.run(main())
