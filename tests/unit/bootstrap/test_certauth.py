import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certauth_site import NOW, CertauthSite
from kme.bootstrap.authorities import Authorities
from kme.bootstrap.certauth import make_certificates
from kme.bootstrap.profiles import Profiles
from kme.errors import CredentialError
from kme.files import TEMPORARY_PREFIX
from kme.pki.authority import Leaf, TlsRole, Validity
from kme.pki.bundle import (
    Credential,
    CredentialFiles,
    load_certificates,
    load_credential,
    load_pkcs12,
    write_credential,
)
from kme.secret import Secret

SERVER, HEALTH, CLIENT = (
    ("out/vault/server.pem", "out/vault/server-key.pem"),
    ("out/vault/health.pem", "out/vault/health-key.pem"),
    ("out/vault_init/client.pem", "out/vault_init/client-key.pem"),
)
P12 = "out/vault_init/client.p12"


@pytest.fixture
def site(tmp_path: Path) -> CertauthSite:
    site = CertauthSite(tmp_path)
    site.make()
    return site


def credential(site: CertauthSite, files: tuple[str, str]) -> Credential:
    certificate, key = files
    return load_credential(CredentialFiles(site.path(certificate), site.path(key)), NOW)


def names(site: CertauthSite, files: tuple[str, str]) -> list[str]:
    found = credential(site, files).certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return [str(name.value) for name in found.value]


def test_each_consumer_finds_what_it_needs(site: CertauthSite) -> None:
    assert set(site.contents()) == {
        "ca/root.pem", "ca/root-key.pem", "ca/services-intermediate.pem",
        "ca/services-intermediate-key.pem", "ca/p12-password",
        "exchange/root.pem", "exchange/services-intermediate.pem",
        "out/vault/server.pem", "out/vault/server-key.pem", "out/vault/client-ca.pem",
        "out/vault/health.pem", "out/vault/health-key.pem", "out/vault/root.pem",
        "out/vault_init/client.pem", "out/vault_init/client-key.pem", "out/vault_init/client.p12",
        "out/vault_init/vault-ca.pem",
    }  # fmt: skip


def test_leaves_say_who_they_are_for(site: CertauthSite) -> None:
    assert names(site, SERVER) == ["vault", "localhost", "127.0.0.1"]
    assert names(site, HEALTH) == ["service-id:vault"]
    assert names(site, CLIENT) == ["service-id:vault_init"]


def test_all_keys_are_on_p384(site: CertauthSite) -> None:
    for files in (SERVER, HEALTH, CLIENT):
        for certificate in credential(site, files).chain:
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert key.curve.name == "secp384r1"


def test_nobody_reads_what_is_not_for_him(site: CertauthSite) -> None:
    modes = {
        name: (site.directory / name).stat().st_mode & 0o777
        for name in site.contents()
        if not name.startswith("exchange/")
    }
    private = [name for name in modes if "key" in name or "p12" in name]
    assert {modes[name] for name in private if name.startswith("ca/")} == {0o600}
    assert {modes[name] for name in modes if name.startswith("out/")} == {0o640}
    for name in site.contents():
        if name.startswith("exchange/"):
            assert b"PRIVATE" not in (site.directory / name).read_bytes()


def test_a_mode_that_was_opened_is_closed_again(site: CertauthSite) -> None:
    opened = ["ca/root-key.pem", "ca/p12-password", SERVER[1], P12]
    for name in opened:
        site.path(name).chmod(0o666)
    before = site.contents()
    site.make()
    assert [site.path(name).stat().st_mode & 0o777 for name in opened] == [
        0o600, 0o600, 0o640, 0o640,
    ]  # fmt: skip
    assert site.contents() == before


def test_made_again_nothing_changes(site: CertauthSite) -> None:
    before = site.contents()
    assert set(site.make(NOW + timedelta(days=1000)).values()) == {"kept"}
    assert site.contents() == before


@pytest.mark.parametrize("files", [SERVER, HEALTH, CLIENT])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"spoilt"])
def test_a_spoilt_leaf_is_made_again_alone(
    site: CertauthSite, files: tuple[str, str], which: int, content: bytes | None
) -> None:
    before = site.contents()
    path = site.path(files[which])
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    did = site.make()
    assert [what.startswith("made again: ") for what in did.values()].count(True) == 1
    credential(site, files)
    changed = {name for name, said in site.contents().items() if before[name] != said}
    assert changed <= {*files, P12}


def test_a_leaf_that_ends_soon_is_made_again(site: CertauthSite) -> None:
    did = site.make(NOW + timedelta(days=1825 - 29))
    assert did["vault"] == "made again: it would have ended on 2031-11-20"
    assert did["root"] == "kept"


def test_an_expired_leaf_is_made_again(site: CertauthSite) -> None:
    assert "expired on 2031-11-20" in site.make(NOW + timedelta(days=1900))["vault-init"]


def test_a_profile_that_changed_is_followed(site: CertauthSite) -> None:
    vault = site.profiles.leaves["vault"]
    changed = vault.model_copy(update={"hosts": ("vault.example",)})
    profiles = Profiles({**site.profiles.tables, "vault": changed})
    did = {one.name: one.what for one in make_certificates(profiles, site.folders, NOW)}
    assert did["vault"] == "made again: it said something else than its profile"
    assert did["vault-init"] == "kept"
    assert names(site, SERVER) == ["vault.example"]


def put(site: CertauthSite, credential: Credential) -> None:
    write_credential(credential, CredentialFiles(site.path(SERVER[0]), site.path(SERVER[1])))


def test_a_leaf_of_another_authority_is_made_again(site: CertauthSite, tmp_path: Path) -> None:
    other = CertauthSite(tmp_path / "other")
    other.make()
    put(site, credential(other, SERVER))
    assert site.make()["vault"] == "made again: another authority had issued it"


def test_a_leaf_without_its_chain_is_made_again(site: CertauthSite) -> None:
    alone = credential(site, SERVER)
    put(site, Credential(alone.chain[:1], alone.key))
    assert site.make()["vault"] == "made again: its chain was another one"


def test_a_leaf_on_another_curve_is_made_again(site: CertauthSite) -> None:
    authorities = Authorities(site.profiles.authorities, site.folders, NOW)
    authorities.load()
    profile = site.profiles.leaves["vault"]
    validity = Validity.lasting(timedelta(days=400), NOW)
    put(site, authorities["services-intermediate"].issue(profile.leaf, validity))
    assert site.make()["vault"] == "made again: its key was not on the curve P-384"


def test_a_copy_that_was_spoilt_is_put_right(site: CertauthSite) -> None:
    before = site.contents()
    for name in ("exchange/root.pem", "out/vault/client-ca.pem", "out/vault_init/vault-ca.pem"):
        site.path(name).write_bytes(b"spoilt")
    site.path("out/vault/root.pem").unlink()
    assert set(site.make().values()) == {"kept"}
    assert {name: said[0] for name, said in site.contents().items()} == {
        name: said[0] for name, said in before.items()
    }


def test_killed_at_any_file_the_next_run_completes_it(tmp_path: Path) -> None:
    complete = CertauthSite(tmp_path / "complete")
    complete.make()
    order = sorted(complete.contents(), key=lambda name: complete.contents()[name][1])
    for n_files in range(len(order)):
        stopped = CertauthSite(tmp_path / f"stopped-{n_files}")
        for name in order[:n_files]:
            target = stopped.directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(complete.directory / name, target)
        stopped.make()
        assert set(stopped.contents()) == set(order)
        assert set(stopped.make().values()) == {"kept"}


def test_what_a_killed_run_left_half_written_is_removed(site: CertauthSite) -> None:
    left = [
        site.path(f"ca/{TEMPORARY_PREFIX}root-key.pem-0011"),
        site.path(f"ca/{TEMPORARY_PREFIX}p12-password-0011"),
        site.path(f"out/vault/{TEMPORARY_PREFIX}server-key.pem-0011"),
        site.path(f"exchange/{TEMPORARY_PREFIX}root.pem-0011"),
    ]
    another = site.path(f"exchange/{TEMPORARY_PREFIX}kme.csr-0011")
    for path in (*left, another):
        path.write_bytes(b"half")
    site.make()
    assert [path.exists() for path in left] == [False] * 4
    assert another.exists()


def password(site: CertauthSite) -> Secret:
    return Secret(site.path("ca/p12-password").read_bytes().strip())


def test_the_pkcs12_file_opens_with_the_password_and_holds_the_client(site: CertauthSite) -> None:
    client = credential(site, CLIENT)
    held = load_pkcs12(site.path(P12), password(site))
    assert held.chain == client.chain
    assert held.key.public_key() == client.key.public_key()
    with pytest.raises(CredentialError, match="another password"):
        load_pkcs12(site.path(P12), Secret(b"guess"))
    assert len(password(site)) >= 32


@pytest.mark.parametrize("name", [P12, "ca/p12-password"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_pkcs12_file_that_does_not_open_is_made_again_for_the_same_client(
    site: CertauthSite, name: str, content: bytes | None
) -> None:
    before = credential(site, CLIENT).chain
    site.path(name).unlink()
    if content is not None:
        site.path(name).write_bytes(content)
    assert site.make()["vault-init"] == "kept"
    assert load_pkcs12(site.path(P12), password(site)).chain == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "exchange").write_bytes(b"a file is in the way")
    with pytest.raises(CredentialError, match=f"{tmp_path}/exchange/root.pem: cannot be written"):
        CertauthSite(tmp_path).make()


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")


def openssl_verify(anchor: Path, chain: Path, purpose: str, *options: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, *options]
    command += ["-CAfile", str(anchor), "-untrusted", str(chain), str(chain)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@needs_openssl
def test_openssl_believes_each_chain_for_its_purpose_only(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    make_certificates(site.profiles, site.folders, datetime.now(UTC))
    root = site.path("exchange/root.pem")
    assert openssl_verify(root, site.path(SERVER[0]), "sslserver", "-verify_hostname", "vault")
    assert not openssl_verify(root, site.path(SERVER[0]), "sslserver", "-verify_hostname", "x")
    assert not openssl_verify(root, site.path(SERVER[0]), "sslclient")
    for client, _ in (HEALTH, CLIENT):
        anchor = site.path("out/vault/client-ca.pem")
        assert openssl_verify(anchor, site.path(client), "sslclient", "-partial_chain")
        assert not openssl_verify(root, site.path(client), "sslserver")


@needs_openssl
def test_openssl_opens_the_pkcs12_file_with_the_password_file(site: CertauthSite) -> None:
    command = ["openssl", "pkcs12", "-in", str(site.path(P12)), "-nokeys"]
    command += ["-passin", f"file:{site.path('ca/p12-password')}"]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert shown.count("BEGIN CERTIFICATE") == 2
    assert "kme-1 Vault initialisation" in shown


def _contexts(site: CertauthSite, client: tuple[str, str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what Vault's listener and a client of it would use."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(site.path(SERVER[0]), site.path(SERVER[1]))
    server.load_verify_locations(site.path("out/vault/client-ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine.load_cert_chain(site.path(client[0]), site.path(client[1]))
    mine.load_verify_locations(site.path("out/vault_init/vault-ca.pem"))
    mine.verify_flags |= ssl.VERIFY_X509_STRICT
    return server, mine


def _shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    waiting = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting


@pytest.mark.parametrize("host", ["vault", "localhost", "127.0.0.1"])
@pytest.mark.parametrize("client", [HEALTH, CLIENT])
def test_vault_and_its_clients_agree_on_tls(
    tmp_path: Path, client: tuple[str, str], host: str
) -> None:
    site = CertauthSite(tmp_path)
    make_certificates(site.profiles, site.folders, datetime.now(UTC))
    _shake(*_contexts(site, client), host)


def test_another_sites_client_is_refused(tmp_path: Path) -> None:
    sites = [CertauthSite(tmp_path / name, name) for name in ("kme-1", "kme-2")]
    for one in sites:
        make_certificates(one.profiles, one.folders, datetime.now(UTC))
    server, _ = _contexts(sites[0], CLIENT)
    _, client = _contexts(sites[1], CLIENT)
    client.load_verify_locations(sites[0].path("exchange/root.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake(server, client, "vault")


def test_vaults_server_certificate_is_no_client(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    make_certificates(site.profiles, site.folders, datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake(*_contexts(site, SERVER), "vault")


def test_a_leaf_cannot_be_an_authority(site: CertauthSite) -> None:
    certificates = load_certificates(site.path(CLIENT[0]), NOW)
    constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    assert Leaf("kme-1 Vault initialisation", TlsRole.CLIENT, ("service-id:vault_init",)).describes(
        certificates[0]
    )
