"""The SAE's client, against our own application and against answers of strangers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from asgi_sae import app_for, asgi_client
from kme.errors import (
    IdentityError,
    IntegrityError,
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RequestError,
    UnavailableError,
)
from kme.etsi014.client import Sae014Client
from kme.ids import KmeId, SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.secret import Secret
from memory_supply import MemoryLink

A, B = KmeId("kme-a"), KmeId("kme-b")
ALICE, BOB, EVE, ODD = SaeId("alice"), SaeId("bob"), SaeId("eve"), SaeId("odd/one?")
HOMES = {ALICE: A, BOB: B, EVE: B, ODD: B}
VALID = Validity.lasting(timedelta(days=1), datetime.now(UTC))
ISSUER = Authority.root("root", VALID).issue_authority("issuer", TlsRole.CLIENT, VALID)

Clients = dict[SaeId, Sae014Client]


def with_clients(
    test: Callable[[Clients, MemoryLink], Awaitable[None]], n_granules: int = 1000
) -> None:
    link = MemoryLink(HOMES, n_granules)
    apps = {
        kme: app_for(link.supply_at(kme), kme, {s for s, home in HOMES.items() if home == kme})
        for kme in (A, B)
    }

    async def run() -> None:
        http = {
            sae: asgi_client(
                apps[kme], ISSUER.issue(Leaf(sae, TlsRole.CLIENT, (f"sae-id:{sae}",)), VALID)
            )
            for sae, kme in HOMES.items()
        }
        try:
            await test({sae: Sae014Client(one) for sae, one in http.items()}, link)
        finally:
            for one in http.values():
                await one.aclose()

    asyncio.run(run())


def test_both_ends_get_the_same_keys() -> None:
    async def test(clients: Clients, _: MemoryLink) -> None:
        for slave in (BOB, ODD):
            keys = await clients[ALICE].enc_keys(slave, number=3, size_bits=128)
            assert [len(key.key) for key in keys] == [16] * 3
            ids = [key.key_id for key in keys][::-1]
            same = await clients[slave].dec_keys(ALICE, ids)
            assert [key.key_id for key in same] == ids
            assert [key.key for key in same] == [key.key for key in keys][::-1]

    with_clients(test)


def test_keys_come_as_secrets() -> None:
    async def test(clients: Clients, _: MemoryLink) -> None:
        [key] = await clients[ALICE].enc_keys(BOB)
        assert isinstance(key.key, Secret)
        assert key.key.to_base64() not in repr(key)

    with_clients(test)


def test_the_status_comes_typed() -> None:
    async def test(clients: Clients, _: MemoryLink) -> None:
        status = await clients[ALICE].status(BOB)
        assert (status.source_kme_id, status.target_kme_id) == (A, B)
        assert status.stored_key_count == 250

    with_clients(test)


def test_refusals_come_as_the_exceptions_they_were() -> None:
    async def test(clients: Clients, link: MemoryLink) -> None:
        [key] = await clients[ALICE].enc_keys(BOB)
        with pytest.raises(NotEntitledError):
            await clients[EVE].dec_keys(ALICE, [key.key_id])
        await clients[BOB].dec_keys(ALICE, [key.key_id])
        with pytest.raises(KeyNotFoundError):
            await clients[BOB].dec_keys(ALICE, [key.key_id])
        with pytest.raises(RequestError, match="multiple of 8"):
            await clients[ALICE].enc_keys(BOB, size_bits=255)
        with pytest.raises(RequestError, match="not registered"):
            await clients[ALICE].status(SaeId("nobody"))
        with pytest.raises(OutOfKeysError):
            await clients[ALICE].enc_keys(BOB, number=128, size_bits=65536)
        link.is_alive = False
        with pytest.raises(PeerUnavailableError):
            await clients[ALICE].enc_keys(BOB)

    with_clients(test)


def answered_by(status: int, content: bytes | dict[str, Any]) -> Callable[..., Any]:
    """Return the three methods of a client of a stranger that always answers so."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=data))

    async def ask(method: str) -> object:
        async with httpx.AsyncClient(transport=transport, base_url="https://kme") as http:
            client = Sae014Client(http)
            if method == "status":
                return await client.status(BOB)
            if method == "enc_keys":
                return await client.enc_keys(BOB)
            return await client.dec_keys(ALICE, ["bc490419-7d60-487f-adc1-4ddcc177c139"])

    return ask


@pytest.mark.parametrize(
    ("status", "content", "method", "error"),
    [
        (401, b"", "dec_keys", NotEntitledError),
        (401, b"", "enc_keys", IdentityError),
        (401, {"message": "Unauthorized"}, "status", IdentityError),
        (400, {"message": "what"}, "enc_keys", RequestError),
        (
            400,
            {"message": "one or more keys specified are not found on KME", "details": []},
            "dec_keys",
            KeyNotFoundError,
        ),
        (404, b"<html>", "status", RequestError),
        (422, {"detail": "what"}, "enc_keys", RequestError),
        (500, b"\xff", "status", UnavailableError),
        (503, {"message": "no keys", "details": [{"x": 1}]}, "enc_keys", UnavailableError),
        (302, b"", "status", RequestError),
    ],
)
def test_other_vendors_errors_are_understood(
    status: int, content: bytes | dict[str, Any], method: str, error: type[KmeError]
) -> None:
    with pytest.raises(error) as caught:
        asyncio.run(answered_by(status, content)(method))
    assert type(caught.value) is error


KEY_ID = "bc490419-7d60-487f-adc1-4ddcc177c139"


@pytest.mark.parametrize(
    ("content", "method"),
    [
        (b"", "status"),
        (b"{}", "status"),
        (b"{}", "enc_keys"),
        ({"keys": []}, "enc_keys"),
        ({"keys": [{"key_ID": KEY_ID, "key": "!"}]}, "enc_keys"),
        ({"keys": [{"key_ID": KEY_ID, "key": "AAA"}]}, "enc_keys"),
        ({"keys": [{"key_ID": "another", "key": "AAAA"}]}, "dec_keys"),
        ({"keys": [{"key_ID": KEY_ID, "key": "AAAA"}] * 2}, "dec_keys"),
    ],
)
def test_answers_that_break_the_standard_are_no_keys(
    content: bytes | dict[str, Any], method: str
) -> None:
    with pytest.raises(IntegrityError):
        asyncio.run(answered_by(200, content)(method))


def test_a_kme_that_does_not_answer_is_unavailable() -> None:
    def no_answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("", request=request)

    async def run() -> None:
        transport = httpx.MockTransport(no_answer)
        async with httpx.AsyncClient(transport=transport, base_url="https://kme") as http:
            with pytest.raises(UnavailableError, match="ConnectTimeout"):
                await Sae014Client(http).status(BOB)

    asyncio.run(run())
