import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from kme.errors import CredentialError
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import (
    MAX_FILE_BYTES,
    Credential,
    CredentialFiles,
    load_certificates,
    load_credential,
    load_pkcs12,
    load_request,
    load_revocation_list,
    write_certificates,
    write_credential,
    write_pkcs12,
    write_revocation_list,
)
from kme.secret import Secret

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
YEAR = Validity.lasting(timedelta(days=365), NOW)
LATER = NOW + timedelta(days=366)
ISSUER = Authority.root("root", YEAR).issue_authority("issuer", TlsRole.CLIENT, YEAR)
ALICE = ISSUER.issue(Leaf("alice", TlsRole.CLIENT, ("sae-id:alice",)), YEAR)


@pytest.fixture
def files(tmp_path: Path) -> CredentialFiles:
    files = CredentialFiles(tmp_path / "sub" / "a.pem", tmp_path / "sub" / "a.key")
    write_credential(ALICE, files)
    return files


def pem(key: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined, no-any-return]


def test_a_credential_is_read_as_it_was_written(files: CredentialFiles) -> None:
    read = load_credential(files, NOW)
    assert read.chain == ALICE.chain
    assert pem(read.key) == pem(ALICE.key)


def test_the_key_is_for_its_owner_only(files: CredentialFiles) -> None:
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.key.parent.stat().st_mode) == 0o700
    write_credential(ALICE, files)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_a_credential_does_not_show_its_key() -> None:
    assert "key" not in repr(ALICE)


def test_a_key_of_another_certificate_is_refused(files: CredentialFiles) -> None:
    files.key.write_bytes(pem(ISSUER.credential.key))
    with pytest.raises(CredentialError, match=f"{files.key}.*does not belong"):
        load_credential(files, NOW)


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (LATER, "expired on 2027-11-21 12:00 UTC"),
        (NOW - timedelta(days=1), "valid only from 2026-11-21 11:00 UTC"),
    ],
)
def test_a_certificate_out_of_its_time_is_refused(
    files: CredentialFiles, at: datetime, says: str
) -> None:
    with pytest.raises(CredentialError, match=says) as caught:
        load_credential(files, at)
    assert str(files.certificate) in str(caught.value)
    assert load_credential(files, None).chain == ALICE.chain


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 40, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_files_that_are_not_pem_are_named(files: CredentialFiles, content: bytes) -> None:
    for path in (files.certificate, files.key):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(CredentialError, match=str(path)):
            load_credential(files, NOW)
        path.write_bytes(kept)


def test_a_certificate_cut_off_in_its_middle_is_refused(files: CredentialFiles) -> None:
    text = files.certificate.read_text()
    files.certificate.write_text(text[:200] + "\n-----END CERTIFICATE-----\n")
    with pytest.raises(CredentialError, match="no PEM certificates"):
        load_certificates(files.certificate, NOW)


def test_files_that_are_not_there_are_named(files: CredentialFiles, tmp_path: Path) -> None:
    for missing in (
        replace(files, key=tmp_path / "none"),
        replace(files, certificate=tmp_path / "none"),
        replace(files, certificate=tmp_path),
    ):
        with pytest.raises(CredentialError, match=f"{tmp_path}.*cannot be read"):
            load_credential(missing, NOW)


def test_a_file_that_is_far_too_long_is_refused(files: CredentialFiles) -> None:
    files.certificate.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(CredentialError, match="longer than"):
        load_certificates(files.certificate, NOW)


def test_an_encrypted_key_is_refused(files: CredentialFiles) -> None:
    encrypted = ALICE.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    files.key.write_bytes(encrypted)
    with pytest.raises(CredentialError, match="encrypted"):
        load_credential(files, NOW)


def test_a_key_that_cannot_sign_is_refused(files: CredentialFiles) -> None:
    files.key.write_bytes(pem(x25519.X25519PrivateKey.generate()))
    with pytest.raises(CredentialError, match="cannot sign"):
        load_credential(files, NOW)


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()],
    ids=["rsa", "ed25519"],
)
def test_keys_of_other_kinds_can_be_written_and_compared(
    files: CredentialFiles, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    write_credential(Credential(ALICE.chain, key), files)
    with pytest.raises(CredentialError, match="does not belong"):
        load_credential(files, NOW)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    with pytest.raises(CredentialError, match=str(in_the_way)):
        write_certificates(ALICE.chain, in_the_way / "a.pem")


def test_a_revocation_list_must_be_one_and_be_current(tmp_path: Path) -> None:
    path = tmp_path / "crl.pem"
    made = ISSUER.revocation_list({}, 7, YEAR)
    write_revocation_list(made, path)
    assert load_revocation_list(path, NOW) == made
    assert load_revocation_list(path, None) == made
    with pytest.raises(CredentialError, match="out of date since 2027-11-21"):
        load_revocation_list(path, LATER)
    write_certificates(ALICE.chain, path)
    with pytest.raises(CredentialError, match="not a PEM revocation list"):
        load_revocation_list(path, NOW)


def test_a_credential_may_be_shared_with_the_folders_group(tmp_path: Path) -> None:
    files = CredentialFiles(tmp_path / "a.pem", tmp_path / "a.key")
    write_credential(ALICE, files, 0o640, 0o640)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_pkcs12_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, password = tmp_path / "a.p12", Secret(b"password")
    write_pkcs12(ALICE, "alice", password, path)
    read = load_pkcs12(path, password)
    assert read.chain == ALICE.chain
    assert pem(read.key) == pem(ALICE.key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pkcs12_file_that_does_not_open_is_named(tmp_path: Path) -> None:
    path, password = tmp_path / "a.p12", Secret(b"password")
    write_pkcs12(ALICE, "alice", password, path)
    for other in (b"guess", b""):
        with pytest.raises(CredentialError, match=f"{path}: is damaged, or has another password"):
            load_pkcs12(path, Secret(other))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CredentialError, match="is damaged"):
        load_pkcs12(path, password)
    path.unlink()
    with pytest.raises(CredentialError, match="cannot be read"):
        load_pkcs12(path, password)


def test_a_pkcs12_file_without_its_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.p12"
    certificates = [pkcs12.PKCS12Certificate(ALICE.certificate, b"alice")]
    path.write_bytes(
        pkcs12.serialize_java_truststore(certificates, BestAvailableEncryption(b"password"))
    )
    with pytest.raises(CredentialError, match="holds no key"):
        load_pkcs12(path, Secret(b"password"))


def test_a_request_is_read_if_its_key_signed_it(tmp_path: Path) -> None:
    path, key = tmp_path / "a.csr", ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "asking")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    made = request.sign(key, hashes.SHA384())
    path.write_bytes(made.public_bytes(Encoding.PEM))
    assert load_request(path) == made
    path.write_bytes(
        x509.load_der_x509_csr(
            made.public_bytes(Encoding.DER).replace(b"asking", b"taking")
        ).public_bytes(Encoding.PEM)
    )
    with pytest.raises(CredentialError, match="signature is wrong"):
        load_request(path)
    path.write_bytes(b"no request")
    with pytest.raises(CredentialError, match="not a PEM certificate signing request"):
        load_request(path)
