"""The rest service behind a real Traefik with the repository's configuration."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kme.pki.authority import Authority, Leaf, TlsRole
from kme.pki.bundle import CredentialFiles, load_credential, write_certificates, write_credential
from pair_on_host import ALICE, BOB, EVE
from real_traefik import HOST, Front, free_port
from rest_site import CAROL, HERE, PEER, RestSite

STATUS = f"/api/v1/keys/{BOB}/status"
HEARTBEAT = f"/kme/v1/pairs/{HERE}/heartbeat"
SPELLINGS = (
    "X-Forwarded-Tls-Client-Cert",
    "x-forwarded-tls-client-cert",
    "X_Forwarded_Tls_Client_Cert",
    "X-Forwarded-Tls_Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Ssl-Client-Cert",
    "Ssl-Client-Cert",
    "Client-Cert",
    "X-SAE-ID",
    "X-Amzn-Mtls-Clientcert",
)


class FrontOfRest(Front):
    """Traefik with the certificates of a site, and its rest service behind."""

    def __init__(self, folder: Path, site: RestSite) -> None:
        super().__init__(folder)
        self.site = site
        self.pki = site.pair.pki

    @contextmanager
    def running(self) -> Iterator["FrontOfRest"]:
        self._write_certificates()
        doors = {name: free_port() for name in ("sae", "peer", "ping")}
        inner = {"inner-sae": self.site.port, "inner-peer": self.site.back_port}
        self.ports = {**doors, **inner}
        self._configure()
        with self._traefik():
            yield self

    def _write_certificates(self) -> None:
        theirs = self.site.folder / "tls"
        for name in ("hop.pem", "hop-key.pem"):
            (self.tls / name).write_bytes((theirs / name).read_bytes())
        (self.tls / "rest-ca.pem").write_bytes((theirs / "services-ca.pem").read_bytes())
        nobody = Authority.root("nobody", self.validity)
        write_certificates(nobody.credential.chain[:1], self.tls / "nobody-ca.pem")
        (self.tls / "sae-ca.pem").write_bytes(self.pki.sae_ca.read_bytes())
        (self.tls / "peers-ca.pem").write_bytes(self.pki.kme_ca.read_bytes())
        files = CredentialFiles(self.pki.kme_ca, self.pki.kme_ca.with_suffix(".key"))
        kmes = Authority(load_credential(files, None))
        shown = Leaf(HERE, TlsRole.SERVER | TlsRole.CLIENT, (f"kme-id:{HERE}",), (HOST,))
        own = CredentialFiles(self.tls / "kme.pem", self.tls / "kme-key.pem")
        write_credential(kmes.issue(shown, self.validity), own)


@pytest.fixture(scope="module")
def front(site: RestSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontOfRest]:
    site.wait_until(site.is_serving)
    with FrontOfRest(tmp_path_factory.mktemp("traefik"), site).running() as front:
        yield front


def test_an_sae_is_told_by_its_certificate(front: FrontOfRest, serving: RestSite) -> None:
    for sae in (ALICE, CAROL):
        answer = front.ask("sae", front.pki.sae_certificates[sae], STATUS)
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["master_SAE_ID"] == sae


def test_keys_are_handed_out(front: FrontOfRest, serving: RestSite) -> None:
    path = f"/api/v1/keys/{BOB}/enc_keys"
    own = front.pki.sae_certificates[ALICE]
    for body in (b"", b'{"number": 3, "size": 128}'):
        answer = front.ask("sae", own, path, (("Content-Type", "application/json"),), body)
        assert answer.status == 200, answer.body
        assert len(json.loads(answer.body)["keys"]) == (3 if body else 1)


def test_an_sae_of_another_kme_is_not_served(front: FrontOfRest, serving: RestSite) -> None:
    answer = front.ask("sae", front.pki.sae_certificates[EVE], STATUS)
    assert answer.status == 401


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_forged_header_makes_nobody_somebody_else(
    front: FrontOfRest, serving: RestSite, name: str
) -> None:
    lines = front.pki.sae_certificates[CAROL].certificate.read_text().split("-----")[2].split()
    answer = front.ask("sae", front.pki.sae_certificates[ALICE], STATUS, ((name, "".join(lines)),))
    assert answer.status in {200, 400, 401}
    if answer.status == 200:
        assert json.loads(answer.body)["master_SAE_ID"] == ALICE


def test_a_peer_is_told_by_its_certificate(front: FrontOfRest, serving: RestSite) -> None:
    own = front.pki.kme_certificates[PEER]
    answer = front.ask("peer", own, HEARTBEAT, body=b"{}")
    assert answer.status == 400, "who calls was clear, what it says was not"
    here = front.pki.kme_certificates[HERE]
    assert front.ask("peer", here, HEARTBEAT, body=b"{}").status in {401, 403}


@pytest.mark.parametrize("path", ["/admin/v1/status", "/health/ready"])
@pytest.mark.parametrize("door", ["sae", "peer"])
def test_nothing_else_is_behind_the_doors(
    front: FrontOfRest, serving: RestSite, door: str, path: str
) -> None:
    owns = {"sae": front.pki.sae_certificates[ALICE], "peer": front.pki.kme_certificates[PEER]}
    assert front.ask(door, owns[door], path).status == 404
