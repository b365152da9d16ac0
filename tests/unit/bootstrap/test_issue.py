from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kme.bootstrap.access import BootstrapError
from kme.bootstrap.issue import SECRET_MODE, Wanted, deliver, is_current, issue
from kme.bootstrap.roles import service_role
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, load_credential, write_credential

NOW = datetime.now(UTC).replace(microsecond=0)
YEARS = Validity.lasting(timedelta(days=3650), NOW)
YEAR = Validity.lasting(timedelta(days=397), NOW)
ROOT = Authority.root("root", YEARS)
ISSUER = ROOT.issue_authority("services", TlsRole.CLIENT | TlsRole.SERVER, YEARS)
REST = Leaf("rest", TlsRole.CLIENT, ("service-id:rest",))


class SigningVault:
    """Signs what it is asked for, or something else."""

    def __init__(self, instead: Leaf | None = None, *, other_key: bool = False) -> None:
        self.secrets = type("Secrets", (), {"pki": self})()
        self._instead = instead
        self._has_other_key = other_key
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def sign_certificate(self, name: str, csr: str, **more: Any) -> dict[str, Any]:
        self.asked.append((name, more))
        request = x509.load_pem_x509_csr(csr.encode())
        key = ec.generate_private_key(ec.SECP256R1())
        made = ISSUER.issue(self._instead or REST, YEAR, key).certificate
        if not self._has_other_key:
            made = _with_key(made, request)
        return {"data": {"certificate": made.public_bytes(Encoding.PEM).decode()}}


def _with_key(made: x509.Certificate, request: x509.CertificateSigningRequest) -> x509.Certificate:
    """Return the certificate for the key of a request."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(made.subject)
        .issuer_name(made.issuer)
        .public_key(request.public_key())
        .serial_number(made.serial_number)
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
    )
    for extension in made.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(ISSUER.credential.key, hashes.SHA384())


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    files = CredentialFiles(tmp_path / "client.pem", tmp_path / "client-key.pem")
    return Wanted(service_role("rest"), REST, (ISSUER.credential.certificate,), files)


class TestADelivery:
    def test_is_current_once_it_is_made(self, wanted: Wanted) -> None:
        assert not is_current(wanted, NOW)
        deliver(SigningVault(), wanted)
        assert is_current(wanted, NOW)
        for path in (wanted.files.certificate, wanted.files.key):
            assert path.stat().st_mode & 0o777 == SECRET_MODE

    def test_keeps_the_common_name_out_of_the_identities(self, wanted: Wanted) -> None:
        vault = SigningVault()
        deliver(vault, wanted)
        ((name, more),) = vault.asked
        assert name == "service-rest"
        assert more["mount_point"] == "pki-services"
        assert more["extra_params"] == {
            "uri_sans": ["service-id:rest"],
            "alt_names": "",
            "ip_sans": [],
            "exclude_cn_from_sans": True,
        }

    @pytest.mark.parametrize(
        "instead",
        [
            Leaf("rest", TlsRole.CLIENT, ("service-id:watcher",)),
            Leaf("rest", TlsRole.CLIENT, ("service-id:rest", "service-id:watcher")),
            Leaf("rest", TlsRole.CLIENT, ("service-id:rest",), ("rest",)),
            Leaf("rest", TlsRole.SERVER, ("service-id:rest",)),
            Leaf("rest", TlsRole.CLIENT | TlsRole.SERVER, ("service-id:rest",)),
        ],
    )
    def test_of_something_else_is_refused(self, wanted: Wanted, instead: Leaf) -> None:
        with pytest.raises(BootstrapError, match="signed something else"):
            issue(SigningVault(instead), wanted)
        assert not wanted.files.key.exists()

    def test_for_another_key_is_refused(self, wanted: Wanted) -> None:
        with pytest.raises(BootstrapError, match="signed something else"):
            issue(SigningVault(other_key=True), wanted)


class TestWhatIsThere:
    @pytest.fixture(autouse=True)
    def made(self, wanted: Wanted) -> None:
        write_credential(ISSUER.issue(REST, YEAR), wanted.files)

    def test_is_kept_while_it_is_as_wanted(self, wanted: Wanted) -> None:
        assert is_current(wanted, NOW)

    def test_is_renewed_a_month_before_its_end(self, wanted: Wanted) -> None:
        assert is_current(wanted, NOW + timedelta(days=366))
        assert not is_current(wanted, NOW + timedelta(days=368))

    def test_is_kept_to_its_end_if_its_authority_ends_no_later(self, wanted: Wanted) -> None:
        short = ROOT.issue_authority("short", TlsRole.CLIENT, YEAR)
        write_credential(short.issue(REST, YEARS), wanted.files)
        under_it = replace(wanted, issuers=(short.credential.certificate,))
        assert is_current(under_it, NOW + timedelta(days=396))
        assert not is_current(under_it, NOW + timedelta(days=398))

    def test_under_another_authority_is_made_again(self, wanted: Wanted) -> None:
        other = ROOT.issue_authority("services", TlsRole.CLIENT, YEARS)
        assert not is_current(replace(wanted, issuers=(other.credential.certificate,)), NOW)

    def test_with_other_names_is_made_again(self, wanted: Wanted) -> None:
        leaf = replace(REST, hosts=("rest",))
        assert not is_current(replace(wanted, leaf=leaf), NOW)

    def test_with_a_key_of_another_is_made_again(self, wanted: Wanted) -> None:
        certificate = wanted.files.certificate.read_bytes()
        write_credential(ISSUER.issue(REST, YEAR), wanted.files)
        wanted.files.certificate.write_bytes(certificate)
        assert not is_current(wanted, NOW)

    @pytest.mark.parametrize("name", ["certificate", "key"])
    def test_that_is_spoilt_or_gone_is_made_again(self, wanted: Wanted, name: str) -> None:
        path: Path = getattr(wanted.files, name)
        path.write_bytes(b"")
        assert not is_current(wanted, NOW)
        path.unlink()
        assert not is_current(wanted, NOW)

    def test_is_in_the_order_in_which_tls_sends_it(self, wanted: Wanted) -> None:
        chain = load_credential(wanted.files, NOW).chain
        assert chain[1:] == wanted.issuers
