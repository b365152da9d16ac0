import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import PairingError, PeerUnavailableError, StoreUnavailableError
from kme.ids import Epoch, KmeId, SaeId, SourceId
from kme.pairing.ports import (
    BlockTag,
    Comparison,
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.peer.api import create_peer_app
from kme.peer.client import HttpPeerLink
from kme.peer.messages import MAX_BODY_BYTES
from kme.pki.tls import client_context, server_context
from kme.registry.records import SaeList
from kme.server import MutualTlsServer
from kme.store.records import FinalKeyRef, Frontier, Proposal, SourceClass, Verdict
from peering import OPERATOR_STOCK, KmeAuthority, OperatedHandler, RecordingHandler

A, B = KmeId("kme-a"), KmeId("kme-b")
LINK = SourceId("link")
REFS = [FinalKeyRef(LINK, Epoch(epoch), epoch % 2) for epoch in range(5)]
HEARTBEAT = Heartbeat("1" * 32, None, None, 3, 4, Frontier(4, {2: 8, 3: 700}))
PROPOSAL = Proposal(9, B, tuple(REFS), 60, SourceClass.QKD, bytes(range(16)))
AUTHORITY = KmeAuthority()


def der(name: str, *uris: str) -> bytes:
    return AUTHORITY.issue(name, *uris).certificate.public_bytes(Encoding.DER)


DER_B = der("kme-b")


class FakeStream:
    """What httpx tells about a connection whose server showed a certificate."""

    def __init__(self, certificate: bytes | None) -> None:
        self._certificate = certificate

    def get_extra_info(self, name: str) -> Any:
        assert name == "ssl_object"
        return self if self._certificate is not None else None

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._certificate


Answer = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]


def ask(
    answer: Answer,
    question: Callable[[HttpPeerLink], Coroutine[Any, Any, Any]] | None = None,
    certificate: bytes | None = DER_B,
) -> Any:
    """Ask a server that answers so; a heartbeat if no other question is given."""

    async def reply(request: httpx.Request) -> httpx.Response:
        response = await answer(request)
        response.extensions["network_stream"] = FakeStream(certificate)
        return response

    async def main() -> Any:
        context = ssl.create_default_context()
        transport = httpx.MockTransport(reply)
        async with HttpPeerLink(B, "https://kme-b:1", context, 0.2, transport) as link:
            return await (link.heartbeat(HEARTBEAT) if question is None else question(link))

    return asyncio.run(main())


def says(status: int, body: object) -> Answer:
    async def answer(_request: httpx.Request) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, stream=Chunks(content))

    return answer


class Chunks(httpx.AsyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, content: bytes, n_repeats: int = 1) -> None:
        self._content = content
        self._n_repeats = n_repeats
        self.n_read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._n_repeats):
            self.n_read += 1
            yield self._content


ACCEPTED = {"outcome": "accepted", "challenge": None, "settled": 1, "free_bytes": 2}


def test_an_answer_is_read() -> None:
    seen: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return await says(200, ACCEPTED)(request)

    expected = HeartbeatAnswer(HeartbeatOutcome.ACCEPTED, None, 1, 2)
    assert ask(answer) == expected
    assert [(r.method, str(r.url)) for r in seen] == [
        ("POST", "https://kme-b:1/kme/v1/pairs/kme-b/heartbeat")
    ]


def test_only_final_keys_that_were_asked_for_count_as_held() -> None:
    named = [{"source": "link", "epoch": epoch, "part": epoch % 2} for epoch in (3, 1, 1, 77)]
    held = ask(says(200, {"final_keys": named}), lambda link: link.held(REFS))
    assert held == [REFS[1], REFS[3]]


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        b"",
        b"garbage",
        der("kme-b", "sae-id:kme-b"),
        der("kme-b", "kme-id:kme-b", "kme-id:kme-c"),
        der("kme-c"),
    ],
    ids=["no TLS", "no certificate", "garbage", "SAE", "two names", "another KME"],
)
def test_an_answer_from_anyone_else_is_not_believed(certificate: bytes | None) -> None:
    body = Chunks(json.dumps(ACCEPTED).encode())

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=body)

    with pytest.raises(PeerUnavailableError, match="kme-b was not reached"):
        ask(answer, certificate=certificate)
    assert body.n_read == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"{}"),
        (200, ACCEPTED | {"more": 1}),
        (200, ACCEPTED | {"outcome": "fine"}),
        (200, ACCEPTED | {"settled": "1"}),
        (200, b"\x1f\x8b\x08"),
        (302, b""),
        (409, b"<html>"),
        (409, {"code": "conflict", "message": "another one"}),
        (503, {"code": "pairing", "message": "not that status"}),
        (500, {"code": "integrity", "message": "x"}),
        (401, {"code": "identity", "message": "who?"}),
    ],
)
def test_what_is_no_answer_is_no_peer(status: int, body: object) -> None:
    with pytest.raises(PeerUnavailableError, match="kme-b"):
        ask(says(status, body))


def test_a_broken_rule_is_told_apart() -> None:
    problem = {"code": "pairing", "message": "numbers only grow"}
    with pytest.raises(PairingError, match="numbers only grow"):
        ask(says(409, problem), lambda link: link.propose(PROPOSAL))


def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": "https://elsewhere/"}, content=b"")

    with pytest.raises(PeerUnavailableError):
        ask(answer)
    assert len(asked) == 1


def test_an_answer_without_end_is_cut() -> None:
    body = Chunks(b" " * 65_536, 1_000_000)

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=body)

    with pytest.raises(PeerUnavailableError, match="too long"):
        ask(answer)
    assert body.n_read <= MAX_BODY_BYTES // 65_536 + 1


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), OSError("broken"), TimeoutError])
def test_a_peer_that_cannot_be_reached_is_unavailable(error: Exception) -> None:
    async def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(PeerUnavailableError, match="cannot be reached"):
        ask(answer)


def test_a_peer_that_answers_drop_by_drop_is_given_up() -> None:
    class Drops(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.02)
                yield b" "

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Drops())

    with pytest.raises(PeerUnavailableError, match="cannot be reached"):
        ask(answer)


async def talk(
    directory: Path,
    server_name: str,
    server_uri: str | None,
    use: Any,
    operated: OperatedHandler | None = None,
) -> None:
    """Serve kme-b over TLS on loopback, and let kme-a talk with it."""
    trusted = AUTHORITY.write_trust(directory)
    handler = RecordingHandler()
    server = MutualTlsServer(
        create_peer_app(B, handler, [A], operations=operated),
        server_context(AUTHORITY.write(directory, server_name), trusted),
        "127.0.0.1",
        0,
    )
    await server.start()
    context = client_context(AUTHORITY.write(directory, "kme-a"), trusted, server_uri)
    try:
        async with HttpPeerLink(B, f"https://127.0.0.1:{server.port}", context) as link:
            await use(link, handler)
    finally:
        await server.stop()


def test_two_kmes_talk_over_mutual_tls(tmp_path: Path) -> None:
    async def use(link: HttpPeerLink, handler: RecordingHandler) -> None:
        answer = await link.heartbeat(HEARTBEAT)
        assert answer == HeartbeatAnswer(HeartbeatOutcome.CHALLENGED, "c" * 32, 7, 4096)
        assert await link.held(REFS) == REFS[::2]
        assert await link.propose(PROPOSAL) is Verdict.UNEQUAL
        assert handler.calls == [(A, HEARTBEAT), (A, REFS), (A, PROPOSAL)]
        handler.error = PairingError("numbers only grow")
        with pytest.raises(PairingError, match="numbers only grow"):
            await link.propose(PROPOSAL)
        handler.error = StoreUnavailableError("sealed")
        with pytest.raises(PeerUnavailableError, match="sealed"):
            await link.heartbeat(HEARTBEAT)

    asyncio.run(talk(tmp_path, "kme-b", "kme-id:kme-b", use))


@pytest.mark.parametrize("server_uri", [None, "kme-id:kme-b"])
def test_another_kme_of_the_same_ca_is_not_taken_for_the_peer(
    tmp_path: Path, server_uri: str | None
) -> None:
    async def use(link: HttpPeerLink, handler: RecordingHandler) -> None:
        with pytest.raises(PeerUnavailableError):
            await link.heartbeat(HEARTBEAT)
        assert len(handler.calls) == (server_uri is None)

    asyncio.run(talk(tmp_path, "kme-c", server_uri, use))


def test_a_closed_port_is_told_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        context = client_context(
            AUTHORITY.write(tmp_path, "kme-a"), AUTHORITY.write_trust(tmp_path), "kme-id:kme-b"
        )
        async with HttpPeerLink(B, "https://127.0.0.1:1", context) as link:
            with pytest.raises(PeerUnavailableError, match="cannot be reached"):
                await link.held(REFS)

    asyncio.run(main())


class TestWhatOperatorsAsk:
    def test_it_goes_over_mutual_tls_and_comes_back(self, tmp_path: Path) -> None:
        handler = OperatedHandler()
        tags = [BlockTag(3, bytes(32)), BlockTag(4, bytes(32))]
        told = SaeList(3, (SaeId("alice"),))

        async def use(link: HttpPeerLink, _: RecordingHandler) -> None:
            await link.tell_saes(told)
            assert await link.stock(32) == OPERATOR_STOCK
            assert await link.compare(tags) == [Comparison.EQUAL, Comparison.ABSENT]
            assert await link.clear(7) == 9
            assert handler.calls == [(A, told), (A, 32), (A, tags), (A, 7)]
            handler.error = StoreUnavailableError("sealed")
            with pytest.raises(PeerUnavailableError, match="sealed"):
                await link.clear(7)

        asyncio.run(talk(tmp_path, "kme-b", "kme-id:kme-b", use, handler))

    def test_a_peer_that_drops_less_than_it_should_is_not_believed(self) -> None:
        with pytest.raises(PeerUnavailableError, match="did not drop as many"):
            ask(says(200, {"highest": 6}), lambda link: link.clear(7))

    def test_a_comparison_of_other_blocks_is_not_believed(self) -> None:
        with pytest.raises(PeerUnavailableError, match="other blocks"):
            ask(
                says(200, {"found": ["equal", "equal"]}),
                lambda link: link.compare([BlockTag(3, bytes(32))]),
            )


TERMS = RestoreTerms("3" * 32, "4" * 32, "5" * 32, 9, 8)


class TestRestore:
    def test_it_goes_over_mutual_tls_and_comes_back(self, tmp_path: Path) -> None:
        async def use(link: HttpPeerLink, handler: RecordingHandler) -> None:
            assert await link.ask_restore("3" * 32) == RestoreChallenge("d" * 32, is_restoring=True)
            consent = RestoreConsent(11, "e" * 32, {SourceId("link"): Epoch(77)})
            assert await link.agree_restore(TERMS) == consent
            assert handler.calls == [(A, "3" * 32), (A, TERMS)]
            handler.error = PeerUnavailableError("ask again")
            with pytest.raises(PeerUnavailableError, match="ask again"):
                await link.agree_restore(TERMS)

        asyncio.run(talk(tmp_path, "kme-b", "kme-id:kme-b", use))

    def test_a_peer_that_gives_up_less_than_it_should_is_not_believed(self) -> None:
        body: dict[str, object] = {"highest": 8, "heard": None, "epochs": []}
        with pytest.raises(PeerUnavailableError, match="did not give up as many"):
            ask(says(200, body), lambda link: link.agree_restore(TERMS))

    def test_a_source_that_cannot_be_is_no_answer(self) -> None:
        body = {"highest": 9, "heard": None, "epochs": [{"source": "../x", "epoch": 1}]}
        with pytest.raises(PeerUnavailableError, match="answer that is none"):
            ask(says(200, body), lambda link: link.agree_restore(TERMS))
