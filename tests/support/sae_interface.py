"""sae_interface - two KMEs with the real supply over stores in memory, behind real TLS."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kme.clock import SystemClock
from kme.etsi014.api import create_app
from kme.etsi014.identity import CertificateIdentity
from kme.etsi014.offer import Offer
from kme.ids import KmeId, SaeId
from kme.pki.bundle import CredentialFiles
from kme.pki.site import SitePki, make_pki
from kme.pki.tls import client_context, server_context
from kme.server import MutualTlsServer
from server_thread import ServerThread
from supply_pair import RESIDENTS, A, B, SupplyPair, directory_of

HOST = "127.0.0.1"
STRANGER = SaeId("stranger")
"""Has a certificate of the SAE authority and is registered nowhere."""


def make_site(directory: Path) -> SitePki:
    """Make certificates for both KMEs, their SAEs and a stranger."""
    return make_pki(directory, [A, B], [*dict(RESIDENTS), STRANGER], [HOST, "localhost"])


@dataclass
class SaeInterface:
    """Two KMEs that serve SAEs on loopback.

    Parameters
    ----------
    pki
        Everybody's certificates.
    pair
        The supplies behind both.
    ports
        Where each KME listens.
    thread
        Where they run.
    """

    pki: SitePki
    pair: SupplyPair
    ports: dict[KmeId, int]
    thread: ServerThread

    def url(self, kme: KmeId) -> str:
        """Return the base address of a KME."""
        return f"https://{HOST}:{self.ports[kme]}"

    def client(self, sae: SaeId) -> httpx.Client:
        """Return a plain HTTPS client with an SAE's certificate, at that SAE's KME."""
        kme = dict(RESIDENTS).get(sae, A)
        return self.client_of(self.pki.sae_certificates[sae], kme)

    def client_of(self, own: CredentialFiles, kme: KmeId) -> httpx.Client:
        """Return a plain HTTPS client with any certificate."""
        context = client_context(own, self.pki.service_ca)
        return httpx.Client(base_url=self.url(kme), verify=context, trust_env=False)

    def add_blocks(self, owner: KmeId, n_blocks: int, n_bytes: int = 1 << 16) -> None:
        """Put more key into both stores."""
        for _ in range(n_blocks):
            self.thread.call(self.pair.blocks.add(owner, n_bytes))


@contextlib.contextmanager
def running_interface(pki: SitePki, **offer: int) -> Iterator[SaeInterface]:
    """Run two KMEs; their stores are empty at first."""
    pair = SupplyPair()
    pair.blocks.rng = random.Random(14)
    with ServerThread() as thread:
        thread.call(pair.open())
        servers = {
            kme: MutualTlsServer(
                create_app(supply, identity_at(kme), Offer(kme, **offer)),
                server_context(pki.service_certificates[kme], pki.sae_ca, pki.sae_crl),
                HOST,
                0,
            )
            for kme, supply in ((A, pair.a), (B, pair.b))
        }
        for server in servers.values():
            thread.call(server.start())
        try:
            ports = {kme: server.port for kme, server in servers.items()}
            yield SaeInterface(pki, pair, ports, thread)
        finally:
            for server in servers.values():
                thread.call(server.stop())


def identity_at(kme: KmeId) -> CertificateIdentity:
    """Return how a KME tells its SAEs."""
    return CertificateIdentity(directory_of(kme).is_local, SystemClock())


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return an answer's Error body, after checking that it is one."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) <= {"message", "details"}
    assert isinstance(body["message"], str)
    assert body["message"]
    details = body.get("details", [])
    assert isinstance(details, list)
    assert all(isinstance(detail, dict) for detail in details)
    assert "details" not in body or details
    return dict(body)
