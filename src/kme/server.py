"""server - an ASGI application in, an HTTPS server with mutual TLS out, within a running loop.

uvicorn parses HTTP and speaks ASGI; accepting, TLS, limits, signals and the
end are ours: several such servers share one event loop, a client that stalls
in its handshake blocks nobody, and every wait has a bound.
"""

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, TypeAlias, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from kme.errors import SettingsError
from kme.pki.tls import explain

_logger = logging.getLogger(__name__)

ASGIApplication: TypeAlias = Any
"""An ASGI 3 application; frameworks and servers each have their own type for it."""

_BACKLOG: Final = 512
_TICK_S: Final = 1.0
_GOODBYE_S: Final = 0.25
_ACCEPT_AGAIN_S: Final = 0.1
_ERROR_BODY: Final = b'{"message":"%b"}'


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one server.

    Parameters
    ----------
    n_connections
        Connections at a time, those in their handshake included; HTTP/1.1
        allows each one request at a time. More are closed at once.
    n_head_bytes
        Length of a request's line and headers together.
    handshake_s
        For the TLS handshake.
    request_s
        From a request's first byte (or the connection's beginning) to its last.
    answer_s
        From a request's last byte until the client has taken the answer.
    idle_s
        Between one answer and the next request.
    shutdown_s
        For a polite end of TLS, and for answers under way when the server stops.
    """

    n_connections: int = 1024
    n_head_bytes: int = 32 * 1024
    handshake_s: float = 10.0
    request_s: float = 10.0
    answer_s: float = 60.0
    idle_s: int = 75
    shutdown_s: float = 5.0


class MutualTlsServer:
    """Serve one ASGI application to clients that show a certificate.

    The application finds that certificate in the scope, as the ASGI TLS
    extension says: ``scope["extensions"]["tls"]["client_cert_chain"][0]``, PEM.
    It was verified by the TLS context; what it means is the application's
    matter. Lifespan events are not sent.

    Parameters
    ----------
    app
        The application.
    context
        From `kme.pki.tls.server_context`.
    host
        Address to listen on.
    port
        TCP port; 0 lets the system choose one.
    limits
        Bounds.
    listening
        A socket that is bound already, in place of host and port: several
        processes may accept from one. It is closed when the server stops.

    References
    ----------
    ASGI TLS extension 0.2, https://asgi.readthedocs.io/en/latest/specs/tls.html
    """

    def __init__(
        self,
        app: ASGIApplication,
        context: ssl.SSLContext,
        host: str = "",
        port: int = 0,
        limits: ServerLimits | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        self._bound = listening
        self._limits = limits or ServerLimits()
        self._context = context
        self._host = host
        self._port = port
        self._config = Config(
            app,
            http=HttpToolsProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,
            timeout_keep_alive=self._limits.idle_s,
        )
        self._state = ServerState()
        self._listening: socket.socket | None = None
        self._handshakes: set[asyncio.Task[None]] = set()
        self._n_connections = 0
        self._loops: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The TCP port; the one that the system chose, once the server has started."""
        return self._port

    async def start(self) -> None:
        """Bind the port and begin to serve.

        Raises
        ------
        SettingsError
            If the address cannot be bound.
        """
        if self._listening is not None:
            return
        self._listening = listening = self._bound or self._bind()
        _prepare(listening)
        self._port = listening.getsockname()[1]
        if not self._config.loaded:
            self._config.load()
        self._tick()
        self._loops = [
            asyncio.create_task(self._keep_accepting(listening)),
            asyncio.create_task(self._keep_ticking()),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or the task is cancelled, then end within bounds.

        Raises
        ------
        SettingsError
            As `start`.
        """
        await self.start()
        try:
            await stop.wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Take no more connections, let answers under way finish, and close all."""
        if self._listening is None:
            return
        await _cancel_all(self._loops)
        self._listening.close()
        self._listening = self._bound = None
        await _cancel_all(list(self._handshakes))
        connections = self._connections()
        for connection in connections:
            connection.shutdown()
        if answers := list(self._state.tasks):
            await asyncio.wait(answers, timeout=self._limits.shutdown_s)
        # A client that is idle does not read, and so does not say goodbye either.
        if closing := [connection.closed for connection in connections]:
            await asyncio.wait(closing, timeout=_GOODBYE_S)
        await self._abort_all()

    async def _keep_accepting(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, client = await loop.sock_accept(listening)
            except OSError as error:
                # No file descriptors left, or the client is gone already.
                _logger.warning("connection not accepted", extra={"reason": str(error)})
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            if self._n_connections >= self._limits.n_connections:
                _logger.info("connection refused, there are too many", extra={"client": client})
                accepted.close()
                continue
            self._n_connections += 1
            task = asyncio.create_task(self._secure(accepted, client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _secure(self, accepted: socket.socket, client: object) -> None:
        """Go through the TLS handshake, and no further if that fails."""
        protocol = _HttpProtocol(self._config, self._state, self._limits)
        is_secured = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=self._limits.shutdown_s,
            )
            is_secured = True
        except ssl.SSLError as error:
            reason = explain(error)
            _logger.info("handshake refused", extra={"client": client, "reason": reason})
        except OSError as error:
            _logger.info("handshake not finished", extra={"client": client, "reason": str(error)})
        finally:
            if is_secured:
                protocol.closed.add_done_callback(self._forget_connection)
            else:
                self._forget_connection()

    def _forget_connection(self, _: object = None) -> None:
        self._n_connections -= 1

    def _bind(self) -> socket.socket:
        try:
            info = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = info[0]
            listening = socket.socket(family, kind, protocol)
        except OSError as error:
            raise SettingsError(
                f"{self._host}: not an address of this machine: {error.strerror}"
            ) from error
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise SettingsError(
                f"{self._host}:{self._port}: cannot listen there: {error.strerror}; "
                "stop the other program or choose another port"
            ) from error
        return listening

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._tick()

    def _tick(self) -> None:
        """Renew the Date header (RFC 9110 section 6.6.1); end connections that overran."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        now_s = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.abort_if_overdue(now_s)

    def _connections(self) -> list["_HttpProtocol"]:
        return [cast("_HttpProtocol", connection) for connection in self._state.connections]

    async def _abort_all(self) -> None:
        await _cancel_all(list(self._state.tasks))
        connections = self._connections()
        for connection in connections:
            connection.transport.abort()
        if connections:
            await asyncio.wait([c.closed for c in connections], timeout=_TICK_S)


class _HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with the client's certificate and with bounds."""

    def __init__(self, config: Config, state: ServerState, limits: ServerLimits) -> None:
        super().__init__(config, state, {})
        self._limits = limits
        self._extensions: dict[str, Any] = {}
        self._n_head_bytes = 0
        self._is_in_head = True
        self._waits_for_client = True
        self._since_s = 0.0
        self.closed: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self._extensions = {"tls": _tls_extension(tls)}
        self._since_s = self.loop.time()
        super().connection_made(cast("asyncio.Transport", transport))

    def abort_if_overdue(self, now_s: float) -> None:
        """Cut the connection if a request or an answer takes too long."""
        if self._waits_for_client:
            limit_s = self._limits.request_s
        elif not self.cycle.response_complete or self.transport.get_write_buffer_size():
            limit_s = self._limits.answer_s
        else:
            return  # idle: uvicorn's keep-alive timer runs
        if now_s - self._since_s > limit_s:
            _logger.info("connection cut, too slow", extra={"client": self.client})
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._n_head_bytes += len(data)
            if not self._waits_for_client:
                self._wait_for_client()
        super().data_received(data)
        if self._is_in_head and self._n_head_bytes > self._limits.n_head_bytes:
            self._refuse(431, "the request's headers are too long")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._n_head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head = True
        self._waits_for_client = False
        self._since_s = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _wait_for_client(self) -> None:
        self._waits_for_client = True
        self._since_s = self.loop.time()

    def _refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, and close."""
        if self.transport.is_closing():
            return
        body = _ERROR_BODY % message.encode("ascii")
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


def _prepare(listening: socket.socket) -> None:
    # Accepted connections inherit it: an answer's head and body are two writes.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.settimeout(0)


def _tls_extension(tls: ssl.SSLObject) -> dict[str, Any]:
    """Return the ASGI TLS extension of a connection whose client was verified."""
    der = tls.getpeercert(binary_form=True)
    chain = () if der is None else (ssl.DER_cert_to_PEM_cert(der),)
    version = tls.version()
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": ssl.TLSVersion[version.replace(".", "_")].value if version else None,
        "cipher_suite": None,
    }


async def _cancel_all(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and give them a moment to end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_TICK_S)
