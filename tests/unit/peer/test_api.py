import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import (
    IntegrityError,
    KmeError,
    OutOfKeysError,
    PairingError,
    PeerUnavailableError,
    StoreUnavailableError,
)
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.ports import Heartbeat, RestoreTerms
from kme.peer.api import create_peer_app
from kme.peer.messages import HEARTBEAT_PATH, MAX_BODY_BYTES
from kme.store.records import FinalKeyRef, Frontier, Proposal, SourceClass
from peering import KmeAuthority, RecordingHandler

A, B = KmeId("kme-a"), KmeId("kme-b")
AUTHORITY = KmeAuthority()
HEARTBEAT = {
    "nonce": "1" * 32,
    "acknowledged": "2" * 32,
    "challenge": None,
    "settled": 3,
    "free_bytes": 4,
    "frontier": {"number": 4, "open_from": [[3, 700], [2, 8]]},
}
FINAL_KEYS = [{"source": "link", "epoch": epoch, "part": 0} for epoch in (5, 6, 7)]
PROPOSAL = {
    "number": 9,
    "owner": "kme-b",
    "final_keys": FINAL_KEYS,
    "lifetime_s": 60,
    "source_class": "qkd",
    "tag": "ab" * 16,
}
TERMS = {
    "incarnation": "3" * 32,
    "challenge": "4" * 32,
    "nonce": "5" * 32,
    "highest": 9,
    "settled": 8,
}
BODIES: dict[str, dict[str, Any]] = {
    "heartbeat": HEARTBEAT,
    "held": {"final_keys": FINAL_KEYS},
    "proposal": PROPOSAL,
    "restore/ask": {"incarnation": "3" * 32},
    "restore/agree": TERMS,
}


def pem(name: str, *uris: str) -> str:
    return AUTHORITY.issue(name, *uris).certificate.public_bytes(Encoding.PEM).decode()


PEM_A = pem("kme-a")


class Door:
    """kme-b's interface, with a client's certificate as a server would put it into the scope."""

    def __init__(self, certificate: str | None = PEM_A) -> None:
        self.handler = RecordingHandler()
        app = create_peer_app(B, self.handler, [A])

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            chain = [] if certificate is None else [certificate]
            extensions = {"tls": {"client_cert_chain": chain}}
            await app({**scope, "extensions": extensions}, receive, send)

        self.app = with_certificate
        self._transport = httpx.ASGITransport(with_certificate, raise_app_exceptions=False)

    def send(
        self, content: bytes | AsyncIterator[bytes], path: str, method: str = "POST"
    ) -> httpx.Response:
        async def main() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self._transport, base_url="https://kme-b"
            ) as client:
                return await client.request(method, path, content=content)

        return asyncio.run(main())

    def post(self, what: str, body: object, kme: str = "kme-b") -> httpx.Response:
        return self.send(json.dumps(body).encode(), f"/kme/v1/pairs/{kme}/{what}")


def expect_problem(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    problem = response.json()
    assert set(problem) == {"code", "message"}
    assert problem["code"] == code
    message = problem["message"]
    assert isinstance(message, str)
    return message


def test_a_heartbeat_reaches_the_handler_with_its_sender() -> None:
    door = Door()
    response = door.post("heartbeat", HEARTBEAT)
    assert response.status_code == 200
    assert response.json() == {
        "outcome": "challenged",
        "challenge": "c" * 32,
        "settled": 7,
        "free_bytes": 4096,
    }
    frontier = Frontier(4, {2: 8, 3: 700})
    assert door.handler.calls == [(A, Heartbeat("1" * 32, "2" * 32, None, 3, 4, frontier))]


@pytest.mark.parametrize("open_from", [[[2, 8], [2, 9]], [[4, 8]], [[0, 8]]])
def test_a_frontier_that_means_nothing_never_reaches_the_handler(
    open_from: list[list[int]],
) -> None:
    door = Door()
    frontier = {"number": 4, "open_from": open_from}
    expect_problem(door.post("heartbeat", HEARTBEAT | {"frontier": frontier}), 400, "input")
    assert door.handler.calls == []


def test_a_question_for_final_keys_is_answered() -> None:
    door = Door()
    response = door.post("held", {"final_keys": FINAL_KEYS})
    assert response.status_code == 200
    assert response.json() == {"final_keys": [FINAL_KEYS[0], FINAL_KEYS[2]]}
    refs = [FinalKeyRef(SourceId("link"), Epoch(epoch)) for epoch in (5, 6, 7)]
    assert door.handler.calls == [(A, refs)]


def test_a_proposal_is_answered_with_a_verdict() -> None:
    door = Door()
    response = door.post("proposal", PROPOSAL)
    assert response.status_code == 200
    assert response.json() == {"verdict": "unequal"}
    refs = tuple(FinalKeyRef(SourceId("link"), Epoch(epoch)) for epoch in (5, 6, 7))
    proposal = Proposal(9, B, refs, 60, SourceClass.QKD, b"\xab" * 16)
    assert door.handler.calls == [(A, proposal)]


def test_a_restored_peer_is_given_a_challenge() -> None:
    door = Door()
    response = door.post("restore/ask", {"incarnation": "3" * 32})
    assert response.status_code == 200
    assert response.json() == {"challenge": "d" * 32, "is_restoring": True}
    assert door.handler.calls == [(A, "3" * 32)]


def test_a_restore_that_is_accepted_is_answered_with_what_to_go_on_from() -> None:
    door = Door()
    response = door.post("restore/agree", TERMS)
    assert response.status_code == 200
    assert response.json() == {
        "highest": 11,
        "heard": "e" * 32,
        "epochs": [{"source": "link", "epoch": 77}],
    }
    terms = RestoreTerms("3" * 32, "4" * 32, "5" * 32, 9, 8)
    assert door.handler.calls == [(A, terms)]


@pytest.mark.parametrize("what", list(BODIES))
@pytest.mark.parametrize(
    ("certificate", "status", "code"),
    [
        (None, 401, "identity"),
        ("not PEM", 401, "identity"),
        (pem("kme-a", "sae-id:alice"), 401, "identity"),
        (pem("kme-a", "kme-id:kme-a", "kme-id:kme-c"), 401, "identity"),
        (pem("kme-a", "kme-id:-"), 401, "identity"),
        (pem("kme-c"), 403, "not_entitled"),
        (pem("kme-b"), 403, "not_entitled"),
    ],
    ids=["none", "no PEM", "SAE", "two", "no id", "stranger", "itself"],
)
def test_who_is_no_peer_is_not_heard(
    what: str, certificate: str | None, status: int, code: str
) -> None:
    door = Door(certificate)
    expect_problem(door.post(what, BODIES[what]), status, code)
    assert door.handler.calls == []


def test_a_server_that_says_nothing_of_tls_lets_nobody_in() -> None:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(create_peer_app(B, RecordingHandler(), [A]))
        async with httpx.AsyncClient(transport=transport, base_url="http://kme-b") as client:
            return await client.post("/kme/v1/pairs/kme-b/heartbeat", json=HEARTBEAT)

    expect_problem(asyncio.run(main()), 401, "identity")


@pytest.mark.parametrize("what", list(BODIES))
def test_what_is_meant_for_another_kme_is_refused(what: str) -> None:
    door = Door()
    expect_problem(door.post(what, BODIES[what], kme="kme-c"), 400, "request")
    assert door.handler.calls == []


@pytest.mark.parametrize("what", list(BODIES))
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"{", b"\xff\xfe", b"[" * 100_000, b'{"nonce":"' + b"9" * 99_999],
    ids=["empty", "null", "list", "object", "cut", "no UTF-8", "deep", "long"],
)
def test_a_body_that_is_no_message_is_refused_and_not_repeated(what: str, body: bytes) -> None:
    door = Door()
    message = expect_problem(door.send(body, f"/kme/v1/pairs/kme-b/{what}"), 400, "request")
    assert message.startswith("not as expected: ")
    assert len(message) < 200
    assert "999" not in message
    assert door.handler.calls == []


@pytest.mark.parametrize("what", list(BODIES))
def test_an_unknown_field_is_refused_by_its_name(what: str) -> None:
    message = expect_problem(Door().post(what, BODIES[what] | {"extra": "SECRET"}), 400, "request")
    assert message == "not as expected: extra"


def test_names_that_mean_nothing_are_refused() -> None:
    door = Door()
    expect_problem(door.post("proposal", PROPOSAL | {"owner": ""}), 400, "identifier")
    double = PROPOSAL | {"final_keys": 2 * FINAL_KEYS}
    expect_problem(door.post("proposal", double), 400, "input")
    assert door.handler.calls == []


def test_a_body_that_is_too_long_is_refused_before_it_is_read_to_its_end() -> None:
    n_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal n_sent
        while True:
            n_sent += 1
            yield b" " * 65_536

    door = Door()
    message = expect_problem(door.send(endless(), "/kme/v1/pairs/kme-b/held"), 400, "request")
    assert str(MAX_BODY_BYTES) in message
    assert n_sent <= MAX_BODY_BYTES // 65_536 + 2


def test_a_caller_that_goes_away_in_midst_of_a_body_is_no_mistake_of_ours() -> None:
    door = Door()

    async def main() -> list[Any]:
        parts = iter(({"type": "http.request", "body": b"{", "more_body": True},))
        sent: list[Any] = []

        async def receive() -> Any:
            return next(parts, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        path = "/kme/v1/pairs/kme-b/heartbeat"
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        await door.app(scope, receive, send)
        return sent

    sent = asyncio.run(main())
    assert sent[0]["status"] == 400
    assert b"ended early" in sent[1]["body"]
    assert door.handler.calls == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PairingError("numbers only grow"), 409, "pairing"),
        (PeerUnavailableError("not heard yet"), 503, "peer_unavailable"),
        (StoreUnavailableError("sealed"), 503, "store_unavailable"),
        (OutOfKeysError("none"), 503, "out_of_keys"),
        (IntegrityError("broken"), 500, "integrity"),
        (KmeError("odd"), 500, "error"),
    ],
)
def test_each_error_has_its_status(error: KmeError, status: int, code: str) -> None:
    door = Door()
    door.handler.error = error
    assert expect_problem(door.post("heartbeat", HEARTBEAT), status, code) == error.message


def test_a_mistake_of_ours_says_nothing_about_itself() -> None:
    door = Door()
    door.handler.error = ValueError("SECRET")
    message = expect_problem(door.post("heartbeat", HEARTBEAT), 500, "fault")
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/kme/v1/pairs/kme-b", 404),
        ("POST", "/kme/v1/pairs/kme-b/heartbeat/x", 404),
        ("GET", "/kme/v1/pairs/kme-b/heartbeat", 405),
        ("PUT", "/kme/v1/pairs/kme-b/proposal", 405),
    ],
)
def test_there_is_nothing_else_here(method: str, path: str, status: int) -> None:
    expect_problem(Door().send(b"", path, method), status, "http")


def test_the_callers_certificate_may_be_found_elsewhere() -> None:
    handler = RecordingHandler()
    app = create_peer_app(B, handler, [A], lambda _scope: PEM_A)

    async def post() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://kme-b") as client:
            path = HEARTBEAT_PATH.format(kme=B)
            return (await client.post(path, json=HEARTBEAT)).status_code

    assert asyncio.run(post()) == 200
    assert [peer for peer, _ in handler.calls] == [A]
