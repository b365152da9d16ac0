"""The mutual TLS server, on loopback: limits, time-outs, certificates and its end."""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kme.errors import SettingsError
from kme.ids import KmeId, SaeId
from kme.pki.site import SitePki, make_pki
from kme.pki.tls import client_context, server_context
from kme.server import MutualTlsServer, ServerLimits

HOST = "127.0.0.1"
KME = KmeId("kme-a")
ALICE, BOB = SaeId("alice"), SaeId("bob")
HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
PART = b"x" * (1 << 16)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> SitePki:
    return make_pki(tmp_path_factory.mktemp("pki"), [KME], [ALICE, BOB], [HOST])


class Recorder:
    """An application that keeps the scopes it saw; ``/slow`` waits to be let go."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.is_reached = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self.scopes.append(scope)
        n_bytes = 0
        while (message := await receive())["type"] == "http.request":
            n_bytes += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/slow":
            self.is_reached.set()
            await self.may_go_on.wait()
        if scope["path"] == "/fault":
            raise RuntimeError("a fault of the application")
        body = str(n_bytes).encode()
        n_parts = 256 if scope["path"] == "/huge" else 0
        length = n_parts * len(PART) + len(body)
        headers = [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(n_parts):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(
    pki: SitePki, limits: ServerLimits | None = None
) -> AsyncIterator[tuple[MutualTlsServer, Recorder]]:
    app = Recorder()
    context = server_context(pki.service_certificates[KME], pki.sae_ca, pki.sae_crl)
    server = MutualTlsServer(app, context, HOST, 0, limits)
    await server.start()
    try:
        yield server, app
    finally:
        await server.stop()


async def connect(pki: SitePki, port: int, sae: SaeId = ALICE) -> Connection:
    context = client_context(pki.sae_certificates[sae], pki.service_ca)
    return await asyncio.open_connection(HOST, port, ssl=context)


async def close(*connections: Connection) -> None:
    for _, writer in connections:
        writer.close()
        with contextlib.suppress(ssl.SSLError, OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *lines = head.strip().split("\r\n")
    headers = dict(one.split(": ", 1) for one in lines)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(line.split(" ")[1]), headers, body


async def ask(connection: Connection, request: bytes = HELLO) -> tuple[int, dict[str, str], bytes]:
    connection[1].write(request)
    return await answer(connection[0])


async def is_ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    """Return whether the server ends a connection within some time."""
    try:
        async with asyncio.timeout(within_s):
            while await reader.read(1 << 16):
                pass
    except TimeoutError:
        return False
    except (ssl.SSLError, OSError):
        return True
    return True


def on_both_loops(test: Callable[[], Any]) -> None:
    asyncio.run(test())
    uvloop.run(test())


def test_the_application_sees_each_clients_certificate(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            alice, bob = await connect(pki, server.port), await connect(pki, server.port, BOB)
            for connection in (alice, bob, alice):
                assert (await ask(connection))[0] == 200
            await close(alice, bob)
        shown = [scope["extensions"]["tls"] for scope in app.scopes]
        for tls, sae in zip(shown, (ALICE, BOB, ALICE), strict=True):
            text = pki.sae_certificates[sae].certificate.read_text()
            assert tls["client_cert_chain"][0].strip() in text
            assert tls["tls_version"] == 0x0304
            assert tls["client_cert_error"] is None
        assert shown[0] is shown[2]

    on_both_loops(run)


def test_answers_carry_a_date_and_no_server_name(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            connection = await connect(pki, server.port)
            _, headers, _ = await ask(connection)
            assert "date" in headers
            assert "server" not in headers
            await close(connection)

    asyncio.run(run())


def test_several_servers_run_in_one_loop_and_stop_when_told(pki: SitePki) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        context = server_context(pki.service_certificates[KME], pki.sae_ca)
        servers = [MutualTlsServer(Recorder(), context, HOST, 0) for _ in range(3)]
        for server in servers:
            await server.start()
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(server.run(stop))
            connections = [await connect(pki, server.port) for server in servers]
            for connection in connections:
                assert (await ask(connection))[0] == 200
            stop.set()
        for reader, _ in connections:
            assert await is_ended(reader, 1)
        with pytest.raises(ConnectionRefusedError):
            await connect(pki, servers[0].port)
        await close(*connections)

    on_both_loops(run)


def test_a_stopped_server_starts_again(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            await server.stop()
            await server.start()
            await server.start()
            connection = await connect(pki, server.port)
            assert (await ask(connection))[0] == 200
            await close(connection)

    asyncio.run(run())


def test_a_port_in_use_is_told_with_its_address(pki: SitePki) -> None:
    async def run() -> None:
        with socket.socket() as other:
            other.bind((HOST, 0))
            other.listen()
            port = other.getsockname()[1]
            context = server_context(pki.service_certificates[KME], pki.sae_ca)
            with pytest.raises(SettingsError, match=rf"{HOST}:{port}: .*choose another port"):
                await MutualTlsServer(Recorder(), context, HOST, port).start()

    asyncio.run(run())


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_told(pki: SitePki, host: str) -> None:
    async def run() -> None:
        context = server_context(pki.service_certificates[KME], pki.sae_ca)
        with pytest.raises(SettingsError, match=host):
            await MutualTlsServer(Recorder(), context, host, 0).start()

    asyncio.run(run())


def test_clients_that_stall_in_their_handshake_block_nobody_and_are_cut(
    pki: SitePki, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(handshake_s=0.5)) as (server, _):
            stalled = [await asyncio.open_connection(HOST, server.port) for _ in range(20)]
            stalled[0][1].write(b"\x16\x03\x01")
            begun_s = time.monotonic()
            connection = await connect(pki, server.port)
            assert (await ask(connection))[0] == 200
            assert time.monotonic() - begun_s < 0.4
            for reader, _ in stalled:
                assert await is_ended(reader, 2)
            await close(connection, *stalled)

    with caplog.at_level(logging.INFO, "kme.server"):
        on_both_loops(run)
    assert "handshake not finished" in caplog.messages


def test_plain_http_is_refused_with_a_reason(
    pki: SitePki, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            reader, writer = await asyncio.open_connection(HOST, server.port)
            writer.write(HELLO)
            assert await is_ended(reader, 2)
            await close((reader, writer))
            assert not app.scopes

    with caplog.at_level(logging.INFO, "kme.server"):
        on_both_loops(run)
    assert "http request" in caplog.records[0].__dict__["reason"]


def test_stopping_ends_handshakes_under_way(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            stalled = await asyncio.open_connection(HOST, server.port)
            await asyncio.sleep(0.05)
            begun_s = time.monotonic()
            await server.stop()
            assert time.monotonic() - begun_s < 1
            assert await is_ended(stalled[0], 1)
            await close(stalled)

    on_both_loops(run)


def test_more_connections_than_allowed_are_closed_at_once(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(n_connections=2)) as (server, _):
            kept = [await connect(pki, server.port) for _ in range(2)]
            for connection in kept:
                assert (await ask(connection))[0] == 200
            with pytest.raises((ssl.SSLError, OSError)):
                await connect(pki, server.port)
            await close(kept.pop())
            await asyncio.sleep(0.05)
            kept.append(await connect(pki, server.port))
            assert (await ask(kept[-1]))[0] == 200
            await close(*kept)

    on_both_loops(run)


def test_an_answer_under_way_is_finished_before_the_server_ends(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            connection = await connect(pki, server.port)
            asking = asyncio.create_task(ask(connection, HELLO.replace(b"hello", b"slow")))
            await app.is_reached.wait()
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.1)
            assert not stopping.done()
            app.may_go_on.set()
            assert (await asking)[0] == 200
            await stopping
            await close(connection)

    on_both_loops(run)


def test_an_answer_that_never_comes_does_not_hold_up_the_end(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(shutdown_s=0.3)) as (server, app):
            connection = await connect(pki, server.port)
            connection[1].write(HELLO.replace(b"hello", b"slow"))
            await app.is_reached.wait()
            begun_s = time.monotonic()
            await server.stop()
            assert 0.2 < time.monotonic() - begun_s < 2
            assert await is_ended(connection[0], 1)
            await close(connection)

    on_both_loops(run)


def test_a_request_that_never_ends_is_cut(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(request_s=0.5)) as (server, _):
            silent, dripping, half = [await connect(pki, server.port) for _ in range(3)]
            assert (await ask(half))[0] == 200
            half[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")

            async def drip() -> None:
                with contextlib.suppress(ssl.SSLError, OSError):
                    for byte in HELLO[:-2]:
                        dripping[1].write(bytes([byte]))
                        await asyncio.sleep(0.1)

            task = asyncio.create_task(drip())
            ends = await asyncio.gather(
                *(is_ended(reader, 4) for reader, _ in (silent, dripping, half))
            )
            assert ends == [True] * 3
            task.cancel()
            await close(silent, dripping, half)

    asyncio.run(run())


def test_a_client_that_takes_no_answer_is_cut(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(answer_s=0.5, shutdown_s=0.5)) as (server, _):
            reader, writer = await connect(pki, server.port)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(HELLO.replace(b"hello", b"huge"))
            await asyncio.sleep(2)
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            n_bytes = 0
            with contextlib.suppress(ssl.SSLError, OSError):
                while data := await reader.read(1 << 16):
                    n_bytes += len(data)
            assert n_bytes < 1 << 24
            await close((reader, writer))

    asyncio.run(run())


def test_an_idle_connection_is_closed(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki, ServerLimits(idle_s=1, request_s=0.2)) as (server, _):
            connection = await connect(pki, server.port)
            assert (await ask(connection))[0] == 200
            await asyncio.sleep(0.5)
            assert (await ask(connection))[0] == 200
            assert await is_ended(connection[0], 3)
            await close(connection)

    asyncio.run(run())


@pytest.mark.parametrize(
    "start", [b"GET /" + b"a" * 40_000, b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000, b"C: d\r\n"]
)
def test_headers_that_are_too_long_are_refused(pki: SitePki, start: bytes) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            connection = await connect(pki, server.port)
            data = b"GET / HTTP/1.1\r\n" + start * 8_000 if start == b"C: d\r\n" else start
            status, headers, body = await ask(connection, data)
            assert status == 431
            assert headers["connection"] == "close"
            assert "too long" in json.loads(body)["message"]
            assert await is_ended(connection[0], 1)
            assert not app.scopes
            await close(connection)

    on_both_loops(run)


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request_has_an_error_body(pki: SitePki, request_text: bytes) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            connection = await connect(pki, server.port)
            status, headers, body = await ask(connection, request_text)
            assert status == 400
            assert headers["content-type"] == "application/json"
            assert set(json.loads(body)) == {"message"}
            assert not app.scopes
            await close(connection)

    asyncio.run(run())


def test_an_upgrade_is_not_taken(pki: SitePki, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            for name in (b"websocket", b"h2c"):
                connection = await connect(pki, server.port)
                request = HELLO[:-2] + b"Connection: Upgrade\r\nUpgrade: " + name + b"\r\n\r\n"
                assert (await ask(connection, request))[0] == 200
                await close(connection)

    asyncio.run(run())


def test_pipelined_requests_are_answered_in_order(pki: SitePki) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            connection = await connect(pki, server.port)
            posts = [
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (n, b"x" * n)
                for n in (3, 1, 4, 1, 5)
            ]
            connection[1].write(b"".join(posts))
            bodies = [(await answer(connection[0]))[2] for _ in posts]
            assert bodies == [b"3", b"1", b"4", b"1", b"5"]
            await close(connection)

    on_both_loops(run)


def test_a_fault_of_the_application_leaves_the_server_alive(
    pki: SitePki, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with serving(pki) as (server, _):
            connection = await connect(pki, server.port)
            assert (await ask(connection, HELLO.replace(b"hello", b"fault")))[0] == 500
            other = await connect(pki, server.port)
            assert (await ask(other))[0] == 200
            await close(connection, other)

    asyncio.run(run())
    assert any("Exception in ASGI application" in message for message in caplog.messages)


def test_the_server_takes_many_connections_at_once(pki: SitePki, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(pki) as (server, app):
            connections = await asyncio.gather(*(connect(pki, server.port) for _ in range(50)))
            answers = await asyncio.gather(*(ask(c) for c in connections for _ in range(1)))
            assert [status for status, _, _ in answers] == [200] * 50
            assert len(app.scopes) == 50
            await close(*connections)

    on_both_loops(run)


def test_two_servers_accept_from_one_socket_until_both_have_stopped(pki: SitePki) -> None:
    async def run() -> None:
        with socket.create_server((HOST, 0)) as shared:
            port = shared.getsockname()[1]
            context = server_context(pki.service_certificates[KME], pki.sae_ca)
            servers = [
                MutualTlsServer(Recorder(), context, listening=shared.dup()) for _ in range(2)
            ]
            for server in servers:
                await server.start()
                assert server.port == port
            for server in servers:
                connection = await connect(pki, port)
                assert (await ask(connection))[0] == 200
                await close(connection)
                await server.stop()

    on_both_loops(run)
