"""Who is turned away: other authorities, the wrong port, revoked certificates, forged headers."""

import base64
import ssl
import time
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.ids import KmeId, SaeId
from kme.pki.site import make_pki
from two_kmes import Credential, Site, TwoKmes, wait_for

HEADER = "X-Forwarded-Tls-Client-Cert"


def refused_by_tls(site: Site, credential: Credential | None, port: str = "KME_SAE_PORT") -> bool:
    """Return whether no request got through at all."""
    try:
        answer = site.call("/x/status", credential=credential, port=port)
    except (urllib3.exceptions.HTTPError, ssl.SSLError, OSError):
        return True
    pytest.fail(f"a request got through: {answer}")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Credential]:
    """Certificates of somebody else's authorities, with names that are known here."""
    pki = make_pki(
        tmp_path_factory.mktemp("strangers"), [KmeId("kme-2")], [SaeId("sae-kme-1")], ["localhost"]
    )
    sae, kme = pki.sae_certificates[SaeId("sae-kme-1")], pki.kme_certificates[KmeId("kme-2")]
    return {
        "sae": Credential(sae.certificate, sae.key),
        "kme": Credential(kme.certificate, kme.key),
    }


@pytest.fixture(scope="module")
def kme_credential(started: TwoKmes, tmp_path_factory: pytest.TempPathFactory) -> Credential:
    """Return what KME 2 shows to KME 1, taken out of its rest container's volume."""
    folder = tmp_path_factory.mktemp("kme-2")
    for name in ("kme.pem", "kme-key.pem"):
        command = "import pathlib,sys;sys.stdout.write(pathlib.Path(sys.argv[1]).read_text())"
        code, text = started.second.container("rest").exec_run(
            ["python3", "-c", command, f"/tls/{name}"]
        )
        assert code == 0
        (folder / name).write_bytes(text)
    return Credential(folder / "kme.pem", folder / "kme-key.pem")


def issue_sae(site: Site, stem: str) -> str:
    name = f"{stem}-{time.time_ns()}"
    made = site.make("sae", NAME=name)
    assert made.returncode == 0, made.stderr
    return name


class TestTheSaePort:
    def test_no_certificate(self, kmes: TwoKmes) -> None:
        assert refused_by_tls(kmes.first, None)

    def test_a_certificate_of_another_authority(
        self, kmes: TwoKmes, strangers: dict[str, Credential]
    ) -> None:
        assert refused_by_tls(kmes.first, strangers["sae"])

    def test_an_sae_of_the_other_kme(self, kmes: TwoKmes) -> None:
        assert refused_by_tls(kmes.first, kmes.second.credential())

    def test_a_kmes_certificate(self, kmes: TwoKmes, kme_credential: Credential) -> None:
        assert refused_by_tls(kmes.first, kme_credential)

    def test_paths_of_the_peer_interface_and_of_the_operator_are_not_there(
        self, kmes: TwoKmes
    ) -> None:
        credential = kmes.first.credential()
        for prefix in ("/kme/v1/pairs/kme-1/heartbeat", "/admin/v1/stock", "/health/ready", "/"):
            assert kmes.first.call("", credential=credential, prefix=prefix).status == 404


class TestThePeerPort:
    def test_no_certificate(self, kmes: TwoKmes) -> None:
        assert refused_by_tls(kmes.first, None, "KME_PEER_PORT")

    def test_an_saes_certificate(self, kmes: TwoKmes) -> None:
        assert refused_by_tls(kmes.first, kmes.first.credential(), "KME_PEER_PORT")

    def test_a_kme_of_another_authority(
        self, kmes: TwoKmes, strangers: dict[str, Credential]
    ) -> None:
        assert refused_by_tls(kmes.first, strangers["kme"], "KME_PEER_PORT")


def _header(path: Path) -> str:
    leaf = x509.load_pem_x509_certificates(path.read_bytes())[0]
    return base64.b64encode(leaf.public_bytes(Encoding.DER)).decode()


SPELLINGS = (
    HEADER,
    HEADER.lower(),
    HEADER.upper(),
    HEADER.replace("-", "_"),
    HEADER.lower().replace("-", "_"),
    "X_Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client_Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-SSL-Client-Cert",
    "X-SAE-ID",
)


@pytest.fixture(scope="module")
def second_sae(started: TwoKmes) -> str:
    """Return another SAE of KME 1, with a name that no earlier run took."""
    return issue_sae(started.first, "forger")


class TestForgedHeaders:
    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_a_header_that_claims_another_sae_is_never_believed(
        self, kmes: TwoKmes, second_sae: str, spelling: str
    ) -> None:
        site = kmes.first
        claimed = _header(site.credential().certificate)
        if spelling == "X-SAE-ID":
            claimed = site.sae
        (key_id,) = kmes.second.enc_keys(site).keys
        # The key is for the site's first SAE; the other one claims to be it.
        answer = site.call(
            f"/{kmes.second.sae}/dec_keys?key_ID={key_id}",
            credential=site.credential(second_sae),
            headers={spelling: claimed},
        )
        assert answer.status in {400, 401}
        assert site.dec_keys(kmes.second, key_id).status == 200

    def test_connection_tricks_do_not_take_the_real_header_away(self, kmes: TwoKmes) -> None:
        site = kmes.first
        answer = site.call(
            f"/{kmes.second.sae}/status",
            credential=site.credential(),
            headers={"Connection": f"close, {HEADER}"},
        )
        assert answer.status in {200, 401}


class TestRevocation:
    def test_a_revoked_sae_is_refused_within_seconds(self, kmes: TwoKmes) -> None:
        site = kmes.first
        name = issue_sae(site, "short-lived")
        credential = site.credential(name)

        def status() -> int:
            return site.call(f"/{kmes.second.sae}/status", credential=credential).status

        wait_for(lambda: status() == 200, 15.0)
        revoked = site.make("revoke-sae", NAME=name)
        assert revoked.returncode == 0, revoked.stderr
        wait_for(lambda: status() == 401, 15.0)
