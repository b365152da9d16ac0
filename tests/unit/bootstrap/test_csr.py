"""Requests of Vault's authorities are signed as their profiles say, and only once."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certauth_site import NOW, REQUESTS, CertauthSite, write_request
from kme.bootstrap.authorities import Authorities
from kme.bootstrap.csr import sign_requests
from kme.errors import CredentialError, SettingsError
from kme.pki.authority import Authority, AuthorityTerms, Leaf, TlsRole, Validity
from kme.pki.bundle import Credential, load_certificates, write_certificates

BOTH = TlsRole.SERVER | TlsRole.CLIENT
SUBJECTS = {
    "services": "kme-1 (Lab) services CA",
    "kme": "kme-1 (Lab) KME CA",
    "sae": "kme-1 (Lab) SAE CA",
}


@pytest.fixture
def asked(tmp_path: Path) -> CertauthSite:
    """Return a site whose requests wait to be signed."""
    site = CertauthSite(tmp_path)
    site.make()
    site.ask()
    return site


@pytest.fixture
def signed(asked: CertauthSite) -> CertauthSite:
    """Return a site whose requests are signed."""
    asked.sign()
    return asked


def chain(site: CertauthSite, name: str) -> tuple[x509.Certificate, ...]:
    return load_certificates(site.path(f"exchange/{name}.pem"), NOW)


def refuse(site: CertauthSite, says: str) -> None:
    """Check that nothing at all is signed and the reason says what to do."""
    before = site.contents()
    with pytest.raises(CredentialError, match=says):
        site.sign()
    assert site.contents() == before


@pytest.mark.parametrize("name", REQUESTS)
def test_an_authority_is_what_its_profile_says(signed: CertauthSite, name: str) -> None:
    certificate = chain(signed, name)[0]
    roles = TlsRole.CLIENT if name == "sae" else BOTH
    assert AuthorityTerms(SUBJECTS[name], 0, roles).describes(certificate)
    assert certificate.public_key() == signed.keys[name].public_key()
    assert certificate.not_valid_after_utc == NOW + timedelta(days=1825)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_chains_go_up_to_the_root(signed: CertauthSite) -> None:
    root = load_certificates(signed.path("exchange/root.pem"), NOW)
    services = load_certificates(signed.path("exchange/services-intermediate.pem"), NOW)
    assert chain(signed, "services")[1:] == (*services, *root)
    assert chain(signed, "kme")[1:] == chain(signed, "sae")[1:] == root
    for name in REQUESTS:
        links = chain(signed, name)
        for below, above in pairwise(links):
            below.verify_directly_issued_by(above)


def test_signed_again_nothing_changes(signed: CertauthSite) -> None:
    before = signed.contents()
    assert signed.sign(NOW + timedelta(days=1000)) == dict.fromkeys(REQUESTS, "kept")
    assert signed.contents() == before


def test_a_request_made_anew_for_the_same_key_changes_nothing(signed: CertauthSite) -> None:
    signed.ask()
    assert signed.sign() == dict.fromkeys(REQUESTS, "kept")


def test_what_was_signed_stays_when_its_request_is_gone(signed: CertauthSite) -> None:
    signed.path("exchange/kme.csr").unlink()
    assert signed.sign()["kme"] == "kept"
    assert signed.sign(NOW + timedelta(days=1820))["kme"].startswith("signed again: it ends")


@pytest.mark.parametrize("name", REQUESTS)
def test_a_missing_request_is_told(asked: CertauthSite, name: str) -> None:
    asked.path(f"exchange/{name}.csr").unlink()
    refuse(asked, f"{name}.csr: there is no signing request .*run `vault_init --first`")


@pytest.mark.parametrize("content", [b"", b"damaged", b"\xff" * 3000])
def test_a_damaged_request_is_told(asked: CertauthSite, content: bytes) -> None:
    asked.path("exchange/sae.csr").write_bytes(content)
    refuse(asked, "sae.csr: this is not a PEM certificate signing request")


def test_a_request_that_its_key_did_not_sign_is_refused(asked: CertauthSite) -> None:
    path = asked.path("exchange/sae.csr")
    der = bytearray(x509.load_pem_x509_csr(path.read_bytes()).public_bytes(Encoding.DER))
    der[der.index(b"whatever")] = ord("W")
    path.write_bytes(x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM))
    refuse(asked, "sae.csr: the request's signature is wrong")


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)],
    ids=["p256", "rsa"],
)
def test_a_key_of_another_kind_is_refused(
    asked: CertauthSite, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA384())
    asked.path("exchange/kme.csr").write_bytes(request.public_bytes(Encoding.PEM))
    refuse(asked, "kme.csr: its key must be on the curve P-384")


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectAlternativeName([x509.DNSName("vault")]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.BasicConstraints(ca=True, path_length=1),
        x509.NameConstraints([x509.DNSName("example")], None),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ],
    ids=lambda extension: type(extension).__name__,
)
def test_a_request_for_more_than_its_profile_gives_is_refused(
    asked: CertauthSite, extension: x509.ExtensionType
) -> None:
    write_request(asked.path("exchange/sae.csr"), asked.keys["sae"], extension)
    refuse(asked, rf"sae.csr: it asks for {type(extension).__name__} \([0-9.]+\)")


def test_extensions_that_cannot_be_read_are_refused(asked: CertauthSite) -> None:
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05garba")
    write_request(asked.path("exchange/sae.csr"), asked.keys["sae"], broken)
    refuse(asked, "sae.csr: the extensions it asks for cannot be read")


def test_what_a_request_may_say_is_not_taken_over(asked: CertauthSite) -> None:
    write_request(
        asked.path("exchange/sae.csr"),
        asked.keys["sae"],
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectKeyIdentifier(b"mine"),
        common_name="kme-1 (Lab) root CA",
    )
    asked.sign()
    assert AuthorityTerms(SUBJECTS["sae"], 0, TlsRole.CLIENT).describes(chain(asked, "sae")[0])
    identifier = chain(asked, "sae")[0].extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    )
    assert identifier.value.digest != b"mine"


def test_a_request_copied_to_anothers_name_is_refused(asked: CertauthSite) -> None:
    shutil.copy(asked.path("exchange/kme.csr"), asked.path("exchange/sae.csr"))
    refuse(asked, "'sae' and 'kme' have the same key")


@pytest.mark.parametrize("keep_copy", [True, False])
def test_another_key_is_refused_until_it_is_asked_for_by_name(
    signed: CertauthSite, keep_copy: bool
) -> None:
    signed.keys["kme"] = ec.generate_private_key(ec.SECP384R1())
    signed.ask("kme")
    if not keep_copy:
        signed.path("exchange/kme.pem").unlink()
    refuse(signed, "csr --replace kme`: every certificate .* stops being valid")
    others = {name: chain(signed, name) for name in ("services", "sae")}
    assert signed.sign(replaced=["kme"]) == {"services": "kept", "kme": "signed", "sae": "kept"}
    assert chain(signed, "kme")[0].public_key() == signed.keys["kme"].public_key()
    assert {name: chain(signed, name) for name in others} == others
    assert signed.sign() == dict.fromkeys(REQUESTS, "kept")


def test_only_what_is_asked_for_is_replaced(signed: CertauthSite) -> None:
    signed.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in REQUESTS}
    signed.ask()
    with pytest.raises(CredentialError, match="'services' asks with another key"):
        signed.sign(replaced=["kme"])


def test_a_name_that_nobody_has_is_told(asked: CertauthSite) -> None:
    with pytest.raises(SettingsError, match="--replace root: must be one of services, kme, sae"):
        asked.sign(replaced=["root"])


def test_nothing_is_signed_before_there_are_authorities(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    site.ask()
    refuse(site, "'root' is not there: run `certauth certs` first")


def test_a_lost_copy_is_published_again_byte_for_byte(signed: CertauthSite) -> None:
    path = signed.path("exchange/services.pem")
    before = path.read_bytes()
    for content in (None, b"spoilt"):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert signed.sign()["services"] == "kept"
        assert path.read_bytes() == before


def test_a_damaged_record_is_told_and_can_be_replaced(signed: CertauthSite) -> None:
    before = chain(signed, "sae")
    record, copy = signed.path("ca/signed-sae.pem"), signed.path("exchange/sae.pem")
    record.write_bytes(b"damaged")
    refuse(signed, f"{record}.*put it back from its copy .{copy}.*csr --replace sae`")
    shutil.copy(copy, record)
    assert signed.sign()["sae"] == "kept"
    record.write_bytes(b"damaged")
    assert signed.sign(replaced=["sae"])["sae"] == "signed"
    assert chain(signed, "sae")[0].public_key() == before[0].public_key()


@pytest.mark.parametrize(
    ("roles", "path_length", "start", "why"),
    [
        (BOTH, 0, NOW, "something else than its profile"),
        (TlsRole.CLIENT, 1, NOW, "something else than its profile"),
        (TlsRole.CLIENT, 0, NOW + timedelta(days=2), "not valid yet"),
    ],
)
def test_what_cannot_stay_is_signed_again_for_the_same_key(
    signed: CertauthSite, roles: TlsRole, path_length: int, start: datetime, why: str
) -> None:
    terms = AuthorityTerms(SUBJECTS["sae"], path_length, roles)
    validity = Validity.lasting(timedelta(days=900), start)
    root = _root(signed)
    made = root.certify(terms, signed.keys["sae"].public_key(), validity)[0]
    write_certificates([made, root.credential.certificate], signed.path("ca/signed-sae.pem"))
    assert why in signed.sign()["sae"]
    assert signed.sign()["sae"] == "kept"


def test_what_another_root_signed_is_signed_again(signed: CertauthSite) -> None:
    other = Authority.root("kme-1 (Lab) root CA", Validity.lasting(timedelta(days=9), NOW))
    terms = AuthorityTerms(SUBJECTS["sae"], 0, TlsRole.CLIENT)
    made = other.certify(
        terms, signed.keys["sae"].public_key(), Validity.lasting(timedelta(days=9), NOW)
    )
    write_certificates(made, signed.path("ca/signed-sae.pem"))
    assert signed.sign()["sae"] == "signed again: another authority had issued it"


def test_a_renewed_root_reaches_the_chains(signed: CertauthSite) -> None:
    late = NOW + timedelta(days=3650 - 29)
    signed.make(late)
    assert set(signed.sign(late)) == set(REQUESTS)
    for name in REQUESTS:
        links = load_certificates(signed.path(f"exchange/{name}.pem"), late)
        assert links[-1] == load_certificates(signed.path("exchange/root.pem"), late)[0]
        assert links[0].public_key() == signed.keys[name].public_key()


def _root(site: CertauthSite) -> Authority:
    authorities = Authorities(site.profiles.authorities, site.folders, NOW)
    authorities.load()
    return authorities["root"]


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")


def _openssl_verify(anchor: Path, leaf: Path, purpose: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-partial_chain", "-purpose", purpose]
    command += ["-CAfile", str(anchor), "-untrusted", str(leaf), str(leaf)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def believed(tmp_path: Path) -> CertauthSite:
    """Return a signed site of the present, which a real OpenSSL can look at."""
    site, now = CertauthSite(tmp_path), datetime.now(UTC)
    site.make(now)
    site.ask()
    sign_requests(site.profiles, site.folders, now)
    for name in REQUESTS:
        certificates = load_certificates(site.path(f"exchange/{name}.pem"), now)
        below_root = Credential(certificates[:-1], site.keys[name])
        leaf = Leaf("any", BOTH, ("sae-id:x",), ("vault",))
        issued = Authority(below_root).issue(leaf, Validity.lasting(timedelta(days=9), now))
        write_certificates(issued.chain, site.path(f"out/{name}.pem"))
        below = Authority(below_root).issue_authority(
            "below", BOTH, Validity.lasting(timedelta(days=9), now)
        )
        deeper = below.issue(leaf, Validity.lasting(timedelta(days=9), now))
        write_certificates(deeper.chain, site.path(f"out/{name}-deeper.pem"))
    return site


@needs_openssl
@pytest.mark.parametrize(("name", "serves"), [("services", True), ("kme", True), ("sae", False)])
def test_openssl_believes_what_each_authority_issues_within_its_roles(
    believed: CertauthSite, name: str, serves: bool
) -> None:
    root = believed.path("exchange/root.pem")
    leaf = believed.path(f"out/{name}.pem")
    assert _openssl_verify(root, leaf, "sslclient")
    assert _openssl_verify(root, leaf, "sslserver") == serves


@needs_openssl
@pytest.mark.parametrize("name", REQUESTS)
def test_openssl_believes_no_authority_made_by_one_in_vault(
    believed: CertauthSite, name: str
) -> None:
    root = believed.path("exchange/root.pem")
    assert not _openssl_verify(root, believed.path(f"out/{name}-deeper.pem"), "sslclient")


@needs_openssl
def test_vaults_listener_believes_services_only(believed: CertauthSite) -> None:
    anchor = believed.path("out/vault/client-ca.pem")
    assert _openssl_verify(anchor, believed.path("out/services.pem"), "sslclient")
    assert not _openssl_verify(anchor, believed.path("out/kme.pem"), "sslclient")
    assert not _openssl_verify(anchor, believed.path("out/sae.pem"), "sslclient")
