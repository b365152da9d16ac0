"""pointing_server - what is at Vault's address instead: it breaks off or points elsewhere."""

import http.server
import threading
from typing import Self

from kme.pair import HOST
from kme.pki.authority import Leaf, TlsRole
from kme.pki.bundle import CredentialFiles, write_credential
from kme.pki.tls import server_context
from real_vault import RealVault


class PointingServer:
    """An HTTPS server with a certificate as good as Vault's.

    Parameters
    ----------
    vault
        Whose authority issues the certificate.
    status
        What it answers to everything: a redirect, say; None to close the
        connection after the request was read.
    """

    def __init__(self, vault: RealVault, status: int | None) -> None:
        stem = vault.folder / "tls" / f"pointing-{id(self)}"
        files = CredentialFiles(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        leaf = Leaf("not vault", TlsRole.SERVER, hosts=(HOST,))
        write_credential(vault.services.issue(leaf, vault.validity), files)
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer((HOST, 0), _handler(self.requests, status))
        context = server_context(files, vault.folder / "tls/client-ca.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"https://{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(requests: list[str], status: int | None) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(f"{self.command} {self.path}")
            self.close_connection = True
            if status is not None:
                self.send_response(status)
                self.send_header("Location", f"https://{HOST}:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST = answer  # noqa: N815 - names that http.server looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
