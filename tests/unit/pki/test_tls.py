"""TLS contexts, shaken against each other in memory."""

import ssl
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kme.errors import CredentialError
from kme.ids import KmeId, SaeId
from kme.pki.bundle import load_credential
from kme.pki.site import Issuer, SitePki, make_pki, revoke
from kme.pki.tls import client_context, explain, server_context

A, B = KmeId("kme-a"), KmeId("kme-b")
ALICE, BOB = SaeId("alice"), SaeId("bob")
HOST = "kme.example"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pki")


@pytest.fixture(scope="module")
def pki(directory: Path) -> SitePki:
    return make_pki(directory, [A, B], [ALICE, BOB], [HOST])


def shake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = HOST) -> ssl.SSLObject:
    """Let two contexts talk until both are content; return the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=host),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return ends[0]
    raise AssertionError("no end of the handshake")


def sae_port(pki: SitePki, kme: KmeId = A) -> ssl.SSLContext:
    return server_context(pki.service_certificates[kme], pki.sae_ca, pki.sae_crl)


def peer_port(pki: SitePki, kme: KmeId = B) -> ssl.SSLContext:
    return server_context(pki.kme_certificates[kme], pki.kme_ca, pki.kme_crl)


def sae(pki: SitePki, uri: str | None = "kme-id:kme-a") -> ssl.SSLContext:
    return client_context(pki.sae_certificates[ALICE], pki.service_ca, uri)


def test_an_sae_and_its_kme_agree_on_tls_1_3(pki: SitePki) -> None:
    secured = shake(sae(pki), sae_port(pki))
    assert secured.version() == "TLSv1.3"
    assert secured.getpeercert(binary_form=True) is not None


def test_two_kmes_agree(pki: SitePki) -> None:
    client = client_context(pki.kme_certificates[A], pki.kme_ca, "kme-id:kme-b", pki.kme_crl)
    assert shake(client, peer_port(pki)).version() == "TLSv1.3"


@pytest.mark.parametrize("uri", ["kme-id:kme-b", "kme-id:kme", "sae-id:kme-a"])
def test_a_client_talks_to_no_other_kme_than_it_means(pki: SitePki, uri: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(sae(pki, uri), sae_port(pki))
    assert uri in explain(caught.value)


def test_a_client_refuses_another_host_name(pki: SitePki) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        shake(sae(pki), sae_port(pki), "other.example")


def test_an_sae_is_not_let_in_at_the_peer_port_nor_a_kme_at_the_sae_port(pki: SitePki) -> None:
    as_sae = client_context(pki.sae_certificates[ALICE], pki.kme_ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(as_sae, peer_port(pki))
    as_kme = client_context(pki.kme_certificates[B], pki.service_ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(as_kme, sae_port(pki))


def test_a_client_believes_no_sister_authority(pki: SitePki) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(sae(pki, None), server_context(pki.kme_certificates[A], pki.sae_ca))


def test_a_service_certificate_is_no_client(pki: SitePki) -> None:
    client = client_context(pki.service_certificates[A], pki.service_ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client, server_context(pki.service_certificates[A], pki.service_ca))


def test_an_sae_certificate_is_no_server(pki: SitePki) -> None:
    client = client_context(pki.sae_certificates[ALICE], pki.sae_ca)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client, server_context(pki.sae_certificates[BOB], pki.sae_ca))


def test_a_client_without_certificate_is_refused(pki: SitePki) -> None:
    client = ssl.create_default_context(cafile=pki.root_ca)
    with pytest.raises(ssl.SSLError) as caught:
        shake(client, sae_port(pki))
    assert explain(caught.value) == "peer did not return a certificate"


def test_older_tls_is_refused(pki: SitePki) -> None:
    client = sae(pki)
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(client, sae_port(pki))


def test_revoked_clients_and_servers_are_refused(tmp_path: Path) -> None:
    pki = make_pki(tmp_path, [A, B], [ALICE, BOB], [HOST])
    now = datetime.now(UTC)
    alice = load_credential(pki.sae_certificates[ALICE], now).certificate
    revoke(tmp_path, Issuer.SAE, alice)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake(sae(pki), sae_port(pki))
    assert explain(caught.value) == "certificate refused: certificate revoked"
    bob = client_context(pki.sae_certificates[BOB], pki.service_ca)
    shake(bob, sae_port(pki))
    revoke(tmp_path, Issuer.KME, load_credential(pki.kme_certificates[B], now).certificate)
    client = client_context(pki.kme_certificates[A], pki.kme_ca, None, pki.kme_crl)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake(client, peer_port(pki))


def test_without_any_list_of_its_issuer_no_client_is_let_in(pki: SitePki) -> None:
    server = server_context(pki.service_certificates[A], pki.sae_ca, pki.kme_crl)
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL"):
        shake(sae(pki), server)


def test_the_context_gives_no_tickets_and_demands_a_certificate(pki: SitePki) -> None:
    context = sae_port(pki)
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert sae(pki).check_hostname


def test_unusable_files_are_named(pki: SitePki, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.pem"
    spoilt.write_bytes(b"spoilt")
    own = pki.service_certificates[A]
    cases = [
        (replace(own, key=spoilt), pki.sae_ca, None),
        (replace(own, certificate=spoilt), pki.sae_ca, None),
        (own, spoilt, None),
        (own, pki.sae_ca, spoilt),
    ]
    for files, trusted, revoked in cases:
        with pytest.raises(CredentialError, match=str(spoilt)):
            server_context(files, trusted, revoked)
        with pytest.raises(CredentialError, match=str(spoilt)):
            client_context(files, trusted, None, revoked)
