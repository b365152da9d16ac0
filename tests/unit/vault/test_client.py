"""The client of Vault: certificates that do not fit are told apart; nothing comes from outside."""

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from kme.errors import CredentialError
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.secret import Secret
from kme.vault.client import VaultAccess, connect, tls_context

AUTHORITY = Authority.root("root", Validity.lasting(timedelta(days=1), datetime.now(UTC)))


def access_in(folder: Path) -> VaultAccess:
    files = CredentialFiles(folder / "client.pem", folder / "client-key.pem")
    validity = Validity.lasting(timedelta(days=1), datetime.now(UTC))
    write_credential(AUTHORITY.issue(Leaf("rest", TlsRole.CLIENT), validity), files)
    write_certificates(AUTHORITY.credential.chain, folder / "ca.pem")
    return VaultAccess("https://vault:8200", folder / "ca.pem", files, "rest")


def test_tls_is_1_3_and_the_server_is_checked(tmp_path: Path) -> None:
    context = tls_context(access_in(tmp_path))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_address_that_is_not_https_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="must begin with https://"):
        tls_context(replace(access_in(tmp_path), url="http://vault:8200"))


@pytest.mark.parametrize("name", ["ca.pem", "client.pem", "client-key.pem"])
@pytest.mark.parametrize("content", [None, "not PEM"])
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str | None
) -> None:
    access = access_in(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CredentialError, match=name):
        tls_context(access)


def test_the_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    access = access_in(tmp_path)
    other = access_in(tmp_path / "other")
    wrong = CredentialFiles(access.credential.certificate, other.credential.key)
    with pytest.raises(CredentialError, match="not usable with its key"):
        tls_context(replace(access, credential=wrong))


def test_an_encrypted_key_is_refused_without_asking_a_terminal(tmp_path: Path) -> None:
    access = access_in(tmp_path)
    key = AUTHORITY.credential.key
    access.credential.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    )
    with pytest.raises(CredentialError, match="not usable with its key"):
        tls_context(access)


def test_nothing_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "somebody's")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    client = connect(access_in(tmp_path))
    assert not client.token
    assert not client.session.trust_env
    assert not client.allow_redirects
    assert not client.session.cert
    client.adapter.close()


def test_a_token_is_kept_by_its_client(tmp_path: Path) -> None:
    client = connect(access_in(tmp_path), Secret(b"hvs.token"))
    assert client.token == "hvs.token"
    client.adapter.close()
