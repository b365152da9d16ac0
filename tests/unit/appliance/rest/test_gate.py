"""Who may ask what: told by the path and by the certificate of the connection."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kme.appliance.rest.gate import BackGate, FrontGate
from kme.appliance.rest.health import Health
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from simulation import VirtualClock

DAY = Validity.lasting(timedelta(days=1), datetime.now(UTC))
SERVICES = Authority.root("services", DAY)
KEYS = "/api/v1/keys/bob/status"
STATUS = "/admin/v1/status"
HEARTBEAT = "/kme/v1/kme-1/heartbeat"


def scope(path: str, *services: str) -> dict[str, Any]:
    uris = tuple(f"service-id:{service}" for service in services)
    pem = SERVICES.issue(Leaf("any", TlsRole.CLIENT, uris), DAY).certificate
    chain = [pem.public_bytes(Encoding.PEM).decode()] if services else []
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [],
        "extensions": {"tls": {"client_cert_chain": chain}},
    }


def named(name: str) -> Any:
    """Return an application that answers with its name."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    return app


def ask(app: Any, scope: dict[str, Any]) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def front(tmp_path: Path) -> FrontGate:
    gate = FrontGate(Health(VirtualClock(), tmp_path / "alive"))
    gate.open(named("saes"))
    return gate


@pytest.fixture
def back() -> BackGate:
    return BackGate(named("peers"), named("operators"))


def test_saes_come_through_the_proxy_only(front: FrontGate) -> None:
    assert ask(front, scope(KEYS, "traefik")) == (200, b"saes")
    for services in [(), ("operator",), ("rest",), ("traefik", "operator")]:
        assert ask(front, scope(KEYS, *services))[0] == 401


def test_before_vault_is_there_the_answer_is_come_later(tmp_path: Path) -> None:
    gate = FrontGate(Health(VirtualClock(), tmp_path / "alive"))
    status, body = ask(gate, scope(KEYS, "traefik"))
    assert status == 503
    assert "waits for its Vault" in json.loads(body)["message"]
    assert ask(gate, scope(KEYS, "operator"))[0] == 401


def test_health_is_for_every_service(front: FrontGate) -> None:
    assert ask(front, scope("/health/live", "metrics"))[0] == 200
    assert ask(front, scope("/health/ready", "metrics"))[0] == 503
    assert ask(front, scope("/health/other", "metrics"))[0] == 404


def test_operators_are_answered_at_the_back_only(front: FrontGate, back: BackGate) -> None:
    assert ask(back, scope(STATUS, "operator")) == (200, b"operators")
    assert ask(back, scope(STATUS, "traefik"))[0] == 401
    assert ask(back, scope(STATUS))[0] == 401
    assert ask(front, scope(STATUS, "operator"))[0] == 401


def test_peers_come_through_the_proxy_only(back: BackGate) -> None:
    assert ask(back, scope(HEARTBEAT, "traefik")) == (200, b"peers")
    assert ask(back, scope(HEARTBEAT, "operator"))[0] == 401


@pytest.mark.parametrize("path", ["//admin/v1/status", "/Admin/v1/status", "/x/../admin/v1/status"])
def test_no_other_spelling_of_a_path_is_the_operators(back: BackGate, path: str) -> None:
    assert ask(back, scope(path, "traefik")) == (200, b"peers")
    assert ask(back, scope(path, "operator"))[0] == 401
