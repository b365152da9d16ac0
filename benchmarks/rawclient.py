"""rawclient - requests per second of one HTTPS service, asked by a client that costs little.

Every connection sends one request, ready made, and waits for its answer; what
comes back is cut at its Content-Length and counted. The client runs in a
process of its own, so that it takes no time from the loop of what it measures.
"""

import multiprocessing
import re
import selectors
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and by whom.

    Parameters
    ----------
    address, port
        Where it listens.
    name
        Its name in its certificate.
    ca, certificate, key
        PEM files: who signed its certificate, and the client's own.
    """

    address: str
    port: int
    name: str
    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the client's end of TLS."""
        context = ssl.create_default_context(cafile=self.ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an issuing authority is trusted
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Load:
    """What one run asks.

    Parameters
    ----------
    requests
        Ready-made requests; each is sent once. One alone is sent all the time.
    n_connections
        So many ask at the same time.
    seconds
        For so long at most.
    """

    requests: list[bytes]
    n_connections: int
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What came back.

    Parameters
    ----------
    n_answers
        From status to how many answers had it.
    lasted_s
        From the first request to the last answer.
    took_s
        How long each request took.
    bodies
        The bodies of all answers with status 200, if asked for.
    cpu_s
        Processor time that the client itself used.
    """

    n_answers: dict[int, int] = field(default_factory=dict)
    lasted_s: float = 0.0
    took_s: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Answers with status 200 (404 where nothing else came) per second."""
        n_good = self.n_answers.get(200, 0) or self.n_answers.get(404, 0)
        return n_good / self.lasted_s if self.lasted_s else 0.0

    def quantile_ms(self, share: float) -> float:
        """Return how long a request took, in ms: at most so long in this share of all."""
        ordered = sorted(self.took_s)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def median_ms(self) -> float:
        """Return how long a request usually took, in ms."""
        return 1e3 * statistics.median(self.took_s) if self.took_s else 0.0


def post(name: str, path: str, body: bytes) -> bytes:
    """Return a request with a JSON body."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {name}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(name: str, path: str) -> bytes:
    """Return a request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def ask(target: Target, load: Load, *, keep_bodies: bool = False) -> Outcome:
    """Run a load from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_ask, (target, load, keep_bodies))


class _Connection:
    """One connection, and the request that is under way on it."""

    def __init__(self, target: Target, context: ssl.SSLContext) -> None:
        plain = socket.create_connection((target.address, target.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context.wrap_socket(plain, server_hostname=target.name)
        self.tls.settimeout(0)
        self.sent_s = 0.0
        self._read = b""

    def send(self, request: bytes) -> None:
        self.sent_s = time.perf_counter()
        self.tls.settimeout(30)
        self.tls.sendall(request)
        self.tls.settimeout(0)

    def answer(self) -> tuple[int, bytes] | None:
        """Return status and body once all of it is there."""
        while True:
            try:
                chunk = self.tls.recv(_CHUNK)
            except (ssl.SSLWantReadError, BlockingIOError):
                return None
            if not chunk:
                raise ConnectionError("closed by the server")
            self._read += chunk
            head, end, body = self._read.partition(b"\r\n\r\n")
            found = _LENGTH.search(head) if end else None
            if found and len(body) >= int(found[1]):
                self._read = b""
                return int(head[9:12]), body


def _ask(target: Target, load: Load, keep_bodies: bool) -> Outcome:
    context, outcome = target.context(), Outcome()
    connections = [_Connection(target, context) for _ in range(load.n_connections)]
    for connection in connections:  # whatever the first request of a connection costs extra
        _exchange(connection, get(target.name, "/nowhere"))
    following = _requests(load)
    cpu_s, begun_s = time.process_time(), time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.tls, selectors.EVENT_READ, connection)
            _next(connection, following, lambda c: selector.unregister(c.tls))
        while selector.get_map():
            for ready, _ in selector.select(30):
                _take(ready.data, outcome, keep_bodies)
                if not ready.data.sent_s:
                    is_over = time.perf_counter() - begun_s >= load.seconds
                    requests = iter(()) if is_over else following
                    _next(ready.data, requests, lambda c: selector.unregister(c.tls))
    outcome.lasted_s = time.perf_counter() - begun_s
    outcome.cpu_s = time.process_time() - cpu_s
    return outcome


def _requests(load: Load) -> Iterator[bytes]:
    if len(load.requests) == 1:
        while True:
            yield load.requests[0]
    yield from load.requests


def _next(
    connection: _Connection, following: Iterator[bytes], end: Callable[[_Connection], object]
) -> None:
    request = next(following, None)
    if request is None:
        end(connection)
    else:
        connection.send(request)


def _take(connection: _Connection, outcome: Outcome, keep_bodies: bool) -> None:
    answer = connection.answer()
    if answer is None:
        return
    status, body = answer
    outcome.took_s.append(time.perf_counter() - connection.sent_s)
    outcome.n_answers[status] = outcome.n_answers.get(status, 0) + 1
    connection.sent_s = 0.0
    if keep_bodies and status == 200:
        outcome.bodies.append(body)


def _exchange(connection: _Connection, request: bytes) -> None:
    connection.send(request)
    while connection.answer() is None:
        time.sleep(0.001)
    connection.sent_s = 0.0
