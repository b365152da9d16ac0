"""ETSI GS QKD 014 clause 5.1: who may connect, and who a connection speaks for."""

import logging
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import Credential, CredentialFiles, load_credential, write_credential
from kme.pki.site import Issuer, SitePki, revoke
from kme.pki.tls import client_context
from sae_interface import HOST, SaeInterface, error_of, make_site, running_interface
from supply_pair import ALICE, BOB, CAROL, A, B

STATUS = "/api/v1/keys/bob/status"
YEAR = timedelta(days=365)
ALICE_URI = "sae-id:alice"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def own_pki(directory: Path) -> SitePki:
    pki = make_site(directory)
    carol = load_credential(pki.sae_certificates[CAROL], datetime.now(UTC))
    revoke(directory, Issuer.SAE, carol.certificate)
    return pki


@pytest.fixture(scope="module")
def site(own_pki: SitePki) -> Iterator[SaeInterface]:
    with running_interface(own_pki) as running:
        yield running


@pytest.fixture(scope="module")
def authority(directory: Path, own_pki: SitePki) -> Authority:
    folder = directory / Issuer.SAE
    files = CredentialFiles(folder / "ca.pem", folder / "ca.key")
    return Authority(load_credential(files, datetime.now(UTC)))


def lasting(duration: timedelta = YEAR) -> Validity:
    return Validity.lasting(duration, datetime.now(UTC))


def written(credential: Credential, folder: Path) -> CredentialFiles:
    files = CredentialFiles(folder / "own.pem", folder / "own.key")
    write_credential(credential, files)
    return files


def status_with(site: SaeInterface, credential: Credential, folder: Path) -> httpx.Response:
    with site.client_of(written(credential, folder), A) as client:
        return client.get(STATUS)


def unauthorized(response: httpx.Response) -> str:
    assert response.status_code == 401, response.text
    return str(error_of(response)["message"])


def refused_handshake(
    site: SaeInterface, own: CredentialFiles, caplog: pytest.LogCaptureFixture
) -> str:
    """Return what the KME's log says about a connection that must fail."""
    caplog.set_level(logging.INFO, "kme.server")
    with site.client_of(own, A) as client, pytest.raises(httpx.TransportError):
        client.get(STATUS)
    return logged_reason(caplog)


def logged_reason(caplog: pytest.LogCaptureFixture) -> str:
    """Return why the handshake was refused, once the server's thread has said so."""
    for _ in range(200):
        for record in caplog.records:
            if record.msg == "handshake refused":
                return str(record.__dict__["reason"])
        time.sleep(0.01)
    raise AssertionError("no handshake was refused")


def test_a_registered_sae_is_known_by_its_certificate(site: SaeInterface) -> None:
    with site.client(ALICE) as client:
        assert client.get(STATUS).json()["master_SAE_ID"] == "alice"


def test_each_request_is_tied_to_its_own_connections_sae(site: SaeInterface) -> None:
    with site.client(ALICE) as alice, site.client(BOB) as bob:
        for _ in range(2):
            assert alice.get(STATUS).json()["master_SAE_ID"] == "alice"
            status = bob.get("/api/v1/keys/alice/status").json()
            assert status["master_SAE_ID"] == "bob"


def test_no_certificate_is_no_connection(site: SaeInterface) -> None:
    context = ssl.create_default_context(cafile=site.pki.root_ca)
    with (
        httpx.Client(base_url=site.url(A), verify=context) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(STATUS)


def test_the_root_alone_lets_any_client_verify_the_kme(site: SaeInterface) -> None:
    own = site.pki.sae_certificates[ALICE]
    context = ssl.create_default_context(cafile=site.pki.root_ca)
    context.load_cert_chain(own.certificate, own.key)
    with httpx.Client(base_url=site.url(A), verify=context) as client:
        assert client.get(STATUS).status_code == 200


def test_another_authoritys_certificate_is_no_connection(
    site: SaeInterface, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Authority.root("foreign", lasting()).issue_authority(
        "QKD key management sae-ca", TlsRole.CLIENT, lasting()
    )
    credential = foreign.issue(Leaf("alice", TlsRole.CLIENT, (ALICE_URI,)), lasting())
    reason = refused_handshake(site, written(credential, tmp_path), caplog)
    assert "certificate refused" in reason


def test_a_kmes_certificate_is_no_connection_on_the_sae_port(
    site: SaeInterface, caplog: pytest.LogCaptureFixture
) -> None:
    reason = refused_handshake(site, site.pki.kme_certificates[B], caplog)
    assert "certificate refused" in reason


def test_a_sister_authority_cannot_name_saes(
    site: SaeInterface, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = directory / Issuer.KME
    files = CredentialFiles(folder / "ca.pem", folder / "ca.key")
    sister = Authority(load_credential(files, datetime.now(UTC)))
    credential = sister.issue(Leaf("alice", TlsRole.CLIENT, (ALICE_URI,)), lasting())
    assert refused_handshake(site, written(credential, tmp_path), caplog)


def test_an_expired_certificate_is_no_connection(
    site: SaeInterface, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    past = Validity(now - timedelta(minutes=50), now - timedelta(minutes=1))
    credential = authority.issue(Leaf("alice", TlsRole.CLIENT, (ALICE_URI,)), past)
    own = written(credential, tmp_path)
    # Our own client would not even load it.
    context = ssl.create_default_context(cafile=site.pki.root_ca)
    context.load_cert_chain(own.certificate, own.key)
    caplog.set_level(logging.INFO, "kme.server")
    with (
        httpx.Client(base_url=site.url(A), verify=context) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get(STATUS)
    assert "expired" in logged_reason(caplog)


def test_a_revoked_certificate_is_no_connection(
    site: SaeInterface, caplog: pytest.LogCaptureFixture
) -> None:
    reason = refused_handshake(site, site.pki.sae_certificates[CAROL], caplog)
    assert "revoked" in reason


def test_a_server_certificate_is_no_connection(
    site: SaeInterface, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credential = authority.issue(Leaf("alice", TlsRole.SERVER, (ALICE_URI,)), lasting())
    reason = refused_handshake(site, written(credential, tmp_path), caplog)
    assert "certificate refused" in reason


def test_a_certificate_of_no_stated_use_is_unauthorized(
    site: SaeInterface, authority: Authority, tmp_path: Path
) -> None:
    credential = without_usage(authority)
    assert "for clients" in unauthorized(status_with(site, credential, tmp_path))


def test_two_sae_ids_in_one_certificate_are_unauthorized(
    site: SaeInterface, authority: Authority, tmp_path: Path
) -> None:
    leaf = Leaf("alice", TlsRole.CLIENT, (ALICE_URI, "sae-id:carol"))
    response = status_with(site, authority.issue(leaf, lasting()), tmp_path)
    assert "more than one" in unauthorized(response)


@pytest.mark.parametrize("uri", ["kme-id:alice", "sae-id:", "SAE-ID:alice", "sae-id:a b"])
def test_no_clear_sae_id_is_unauthorized(
    site: SaeInterface, authority: Authority, tmp_path: Path, uri: str
) -> None:
    leaf = Leaf("sae-id:alice", TlsRole.CLIENT, (uri,))
    unauthorized(status_with(site, authority.issue(leaf, lasting()), tmp_path))


def test_an_unregistered_sae_is_unauthorized(
    site: SaeInterface, authority: Authority, tmp_path: Path
) -> None:
    leaf = Leaf("mallory", TlsRole.CLIENT, ("sae-id:mallory",))
    response = status_with(site, authority.issue(leaf, lasting()), tmp_path)
    assert "registered" in unauthorized(response)


def test_headers_do_not_make_an_identity(
    site: SaeInterface, authority: Authority, tmp_path: Path
) -> None:
    leaf = Leaf("mallory", TlsRole.CLIENT, ("sae-id:mallory",))
    pem = site.pki.sae_certificates[ALICE].certificate.read_text().replace("\n", "")
    headers = {
        "X-Forwarded-Tls-Client-Cert": pem,
        "X-Forwarded-Tls-Client-Cert-Info": 'URI="sae-id:alice"',
        "X-SAE-ID": "alice",
    }
    own = written(authority.issue(leaf, lasting()), tmp_path)
    with site.client_of(own, A) as client:
        unauthorized(client.get(STATUS, headers=headers))


def test_tls_1_2_is_no_connection(site: SaeInterface) -> None:
    context = client_context(site.pki.sae_certificates[ALICE], site.pki.service_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        httpx.Client(base_url=site.url(A), verify=context) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get(STATUS)


def test_an_sae_sends_nothing_to_another_kme_than_it_means(site: SaeInterface) -> None:
    own = site.pki.sae_certificates[ALICE]
    for kme, is_meant in ((A, True), (B, False)):
        context = client_context(own, site.pki.service_ca, f"kme-id:{kme}")
        with httpx.Client(base_url=site.url(A), verify=context) as client:
            if is_meant:
                assert client.get(STATUS).status_code == 200
            else:
                with pytest.raises(httpx.ConnectError, match="kme-id:kme-a, not kme-id:kme-b"):
                    client.get(STATUS)


def test_no_session_tickets_are_given(site: SaeInterface) -> None:
    context = client_context(site.pki.sae_certificates[ALICE], site.pki.service_ca)
    with (
        socket.create_connection((HOST, site.ports[A])) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        secured.sendall(f"GET {STATUS} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert secured.recv(64).startswith(b"HTTP/1.1 200")
        assert secured.version() == "TLSv1.3"
        assert secured.session is None or not secured.session.has_ticket


def without_usage(authority: Authority) -> Credential:
    """Return a certificate for alice that has no extended key usage."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.credential.certificate
    validity = lasting()
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        authority.credential.key.public_key()
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
        .add_extension(identifier, critical=False)
        .add_extension(Leaf("", TlsRole.CLIENT, (ALICE_URI,)).names(), critical=True)
    )
    signed = builder.sign(authority.credential.key, hashes.SHA384())
    return Credential((signed, issuer), key)
