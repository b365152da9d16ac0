"""The repository's Traefik configuration keeps its two doors apart, and says itself who calls."""

import base64
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.files import write_whole
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import client_context
from real_traefik import HOST, KME, LARGE_ANSWER, SAE, Front

KEYS = "/api/v1/keys/sae-2/status"
PEER = "/kme/v1/heartbeat"
CERTIFICATE = "x-forwarded-tls-client-cert"

FORGERIES = (
    "X-Forwarded-Tls-Client-Cert",
    "x-forwarded-tls-client-cert",
    "X-FORWARDED-TLS-CLIENT-CERT",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X_Forwarded_Tls_Client_Cert",
    "X-Forwarded_Tls_Client-Cert",
    "x_forwarded_tls_client_cert_info",
    "X.Forwarded.Tls.Client.Cert",
    "X-Forwarded-Tls-Client.Cert",
    "X_FORWARDED-TLS-CLIENT-CERT",
)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Front(tmp_path_factory.mktemp("front")).running() as running:
        yield running


@pytest.fixture
def sae(front: Front) -> CredentialFiles:
    return front.pki.sae_certificates[SAE]


@pytest.fixture
def kme(front: Front) -> CredentialFiles:
    return front.pki.kme_certificates[KME]


def _der(own: CredentialFiles) -> bytes:
    certificate = x509.load_pem_x509_certificate(own.certificate.read_bytes())
    return certificate.public_bytes(Encoding.DER)


def _values(headers: list[list[str]], name: str) -> list[str]:
    return [value for header, value in headers if header == name]


class TestWhoMayComeIn:
    def test_an_sae_reaches_the_keys_and_nothing_else(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        answer = front.ask("sae", sae, KEYS)
        assert (answer.status, answer.arrived["door"]) == (200, front.ports["inner-sae"])
        for path in (PEER, "/", "/health/ready", "/api/v1/key", "/ping", "/dashboard/", "/admin"):
            assert front.ask("sae", sae, path).status == 404

    def test_a_kme_reaches_the_peer_interface_and_nothing_else(
        self, front: Front, kme: CredentialFiles
    ) -> None:
        answer = front.ask("peer", kme, PEER)
        assert (answer.status, answer.arrived["door"]) == (200, front.ports["inner-peer"])
        for path in (KEYS, "/", "/health/ready", "/kme/v2/heartbeat"):
            assert front.ask("peer", kme, path).status == 404

    def test_a_kme_is_refused_at_the_door_of_saes(self, front: Front, kme: CredentialFiles) -> None:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            front.ask("sae", kme, KEYS)

    def test_an_sae_is_refused_at_the_door_of_kmes(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            front.ask("peer", sae, PEER)

    @pytest.mark.parametrize("door", ["sae", "peer"])
    def test_nobody_comes_in_without_a_certificate(self, front: Front, door: str) -> None:
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            front.ask(door, None, KEYS)

    @pytest.mark.parametrize(("door", "uri"), [("sae", "sae-id:sae-1"), ("peer", "kme-id:kme-1")])
    def test_a_certificate_of_an_unknown_authority_is_refused(
        self, front: Front, door: str, uri: str
    ) -> None:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            front.ask(door, front.stranger(uri), KEYS)

    @pytest.mark.parametrize("door", ["sae", "peer"])
    @pytest.mark.parametrize("name", [None, "other.test", "rest", "x." + HOST])
    def test_whoever_asks_for_another_host_name_gets_no_connection(
        self, front: Front, door: str, name: str | None, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            front.ask(door, {"sae": sae, "peer": kme}[door], KEYS, name=name)

    @pytest.mark.parametrize(
        "name", [HOST.upper(), HOST + "."], ids=["in capitals", "with the root's dot"]
    )
    @pytest.mark.parametrize("door", ["sae", "peer"])
    def test_another_spelling_of_the_host_name_opens_no_other_door(
        self, front: Front, door: str, name: str, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            front.ask(door, {"sae": kme, "peer": sae}[door], KEYS, name=name)

    def test_another_host_in_the_request_than_in_the_handshake_is_refused(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        assert front.ask("sae", sae, KEYS, host="other.test").status in {404, 421}

    def test_the_other_doors_host_and_path_lead_nowhere(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        host = f"{HOST}:{front.ports['peer']}"
        assert front.ask("sae", sae, PEER, host=host).status == 404

    @pytest.mark.parametrize("path", [
        "/api/v1/keys/../../../kme/v1/heartbeat", "/api/v1/keys/a%00/status",
        "/api/v1/keys/%2e%2e/%2e%2e/%2e%2e/kme/v1/heartbeat", "//kme/v1/heartbeat",
    ])  # fmt: skip
    def test_no_spelling_of_a_path_leaves_the_keys(
        self, front: Front, sae: CredentialFiles, path: str
    ) -> None:
        assert front.ask("sae", sae, path).status in {400, 404}

    @pytest.mark.parametrize(
        "name", ["a%2Fb", "a%2F..%2Fb", "a%3Bb", "a%25b", "a%3Fb", "a%5Cb", "a:b@c"]
    )
    def test_the_name_of_an_sae_arrives_as_it_was_sent(
        self, front: Front, sae: CredentialFiles, name: str
    ) -> None:
        path = f"/api/v1/keys/{name}/status?number=1"
        assert front.ask("sae", sae, path).arrived["path"] == path


class TestTransport:
    @pytest.mark.parametrize("door", ["sae", "peer"])
    def test_tls_1_2_is_refused(
        self, front: Front, door: str, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        def only_1_2(context: ssl.SSLContext) -> None:
            context.maximum_version = ssl.TLSVersion.TLSv1_2

        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            front.connect(door, {"sae": sae, "peer": kme}[door], change=only_1_2)

    @pytest.mark.parametrize("door", ["sae", "peer"])
    def test_no_session_is_resumed(
        self, front: Front, door: str, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        with front.connect(door, {"sae": sae, "peer": kme}[door]) as connection:
            connection.sendall(f"GET {KEYS} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            connection.recv(4096)
            session = connection.session
            assert session is None or not session.has_ticket

    def test_a_peer_sees_a_certificate_of_the_kmes_authority_and_this_kmes_name(
        self, front: Front, kme: CredentialFiles
    ) -> None:
        context = client_context(kme, front.pki.kme_ca, server_uri=f"kme-id:{KME}")
        plain = socket.create_connection(("127.0.0.1", front.ports["peer"]), timeout=10)
        with context.wrap_socket(plain, server_hostname=HOST) as connection:
            assert connection.version() == "TLSv1.3"

    def test_an_sae_that_trusts_the_root_sees_the_host_name(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        with front.connect("sae", sae, trusted=front.pki.root_ca) as connection:
            shown = connection.getpeercert() or {}
        assert ("DNS", HOST) in shown["subjectAltName"]

    def test_the_health_check_answers_inside_only(self, front: Front) -> None:
        assert "127.0.0.1:" in (front.folder / "traefik.yml").read_text().partition("  ping:")[2]


class TestChange:
    @pytest.fixture
    def own_front(self, tmp_path: Path) -> Iterator[Front]:
        with Front(tmp_path).running() as running:
            yield running

    def test_a_new_peers_authority_is_believed_once_the_configuration_is_touched(
        self, own_front: Front
    ) -> None:
        newcomer = own_front.stranger("kme-id:kme-9", name="newcomer")
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            own_front.ask("peer", newcomer, PEER)
        trusted = own_front.tls / "peers-ca.pem"
        added = (own_front.tls / "newcomer-ca.pem").read_bytes()
        write_whole(trusted, trusted.read_bytes() + added)
        own_front.touch()
        assert _until_admitted(own_front, newcomer) < 5
        known = own_front.pki.kme_certificates[KME]
        assert own_front.ask("peer", known, PEER).status == 200
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            own_front.ask("sae", newcomer, KEYS)

    @pytest.mark.parametrize("content", [None, b"", b"no certificate\n"])
    def test_without_a_usable_file_of_authorities_nobody_comes_in(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        front = Front(tmp_path)
        front.fill()
        trusted = front.tls / "peers-ca.pem"
        trusted.unlink()
        if content is not None:
            trusted.write_bytes(content)
        with front.running():
            for own in (front.pki.kme_certificates[KME], front.pki.sae_certificates[SAE], None):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    front.ask("peer", own, PEER)


def _until_admitted(front: Front, own: CredentialFiles) -> float:
    start = time.monotonic()
    while time.monotonic() - start < 10:
        try:
            assert front.ask("peer", own, PEER).status == 200
        except ssl.SSLError:
            time.sleep(0.1)
        else:
            break
    return time.monotonic() - start


class TestWhatTheServiceIsTold:
    def test_the_whole_certificate_arrives_exactly_once_from_traefik_itself(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        arrived = front.ask("sae", sae, KEYS).arrived
        (forwarded,) = _values(arrived["headers"], CERTIFICATE)
        assert base64.b64decode(forwarded.partition(",")[0]) == _der(sae)
        assert arrived["hop"] == ["service-id:traefik"]

    @pytest.mark.parametrize("name", FORGERIES)
    @pytest.mark.parametrize("door", ["sae", "peer"])
    def test_a_forged_header_never_arrives(
        self, front: Front, door: str, name: str, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        own, path = (sae, KEYS) if door == "sae" else (kme, PEER)
        answer = front.ask(door, own, path, headers=((name, "Rm9yZ2Vk"), (name, "Rm9yZ2Vk")))
        if answer.status == 400:
            return
        assert answer.status == 200
        assert "Rm9yZ2Vk" not in answer.body.decode()
        (forwarded,) = _values(answer.arrived["headers"], CERTIFICATE)
        assert base64.b64decode(forwarded.partition(",")[0]) == _der(own)

    def test_calling_the_real_header_hop_by_hop_does_not_remove_it(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        hop_by_hop = (("Connection", "X-Forwarded-Tls-Client-Cert"),)
        answer = front.ask("sae", sae, KEYS, headers=hop_by_hop)
        assert len(_values(answer.arrived["headers"], CERTIFICATE)) == 1

    def test_addresses_are_what_traefik_saw_and_not_what_a_client_says(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        said = (("X-Forwarded-For", "203.0.113.9"), ("X-Real-Ip", "203.0.113.9"))
        assert b"203.0.113.9" not in front.ask("sae", sae, KEYS, headers=said).body

    @pytest.mark.parametrize(("door", "limit"), [("sae", 64 * 1024), ("peer", 256 * 1024)])
    def test_a_body_that_the_service_takes_passes_and_a_much_larger_one_does_not(
        self, front: Front, door: str, limit: int, sae: CredentialFiles, kme: CredentialFiles
    ) -> None:
        own, path = (sae, KEYS) if door == "sae" else (kme, PEER)
        assert front.ask(door, own, path, body=bytes(limit + 1)).arrived["body"] == limit + 1
        assert front.ask(door, own, path, body=bytes(limit * 2)).status == 413

    def test_a_large_answer_passes_without_touching_a_disk(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        answer = front.ask("sae", sae, "/api/v1/keys/large")
        assert (answer.status, len(answer.body)) == (200, LARGE_ANSWER)

    def test_answers_are_not_to_be_stored_and_name_no_program(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        headers = front.ask("sae", sae, KEYS).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] is None

    def test_the_log_names_no_request_and_no_certificate(
        self, front: Front, sae: CredentialFiles
    ) -> None:
        front.ask("sae", sae, "/api/v1/keys/a-name-to-find/status")
        assert "a-name-to-find" not in front.log
        assert not re.search(r"MII[A-Za-z0-9+/]{20}", front.log)

    def test_nothing_goes_wrong_unseen(self, front: Front) -> None:
        wrong = [line for line in front.log.splitlines() if '"level":"error"' in line]
        assert [line for line in wrong if "request body over limit" not in line] == []
