"""What each service's certificate may do in a real Vault, and what it is refused."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import hvac
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hvac.exceptions import (
    Forbidden,
    InternalServerError,
    InvalidPath,
    InvalidRequest,
    VaultError,
)

from fresh_vault import FreshVault
from kme.bootstrap.access import open_client
from kme.bootstrap.roles import LOGINS

Act = Callable[[hvac.Client], object]

DOCUMENTS = (
    "inbox/kme-2/qkd-1/00000001-0",
    "index/kme-2/qkd-1",
    "index/kme-2/qkd-1/7",
    "pairs/kme-2",
    "room/kme-2",
    "room/kme-2/part",
    "blocks/kme-2/1",
    "ledgers/kme-2/1",
    "expiry/kme-2",
    "grants/kme-2/1/80000000-0000-8000-8000-000000000000",
    "heartbeats/kme-2",
    "incidents",
    "site/digest-key",
    "site/peers/kme-2",
    "registry/saes",
    "registry/peers/kme-2",
    "lease",
)

CREATES = {
    "watcher": ("inbox/", "index/"),
    "rest": (
        *("inbox/", "index/", "pairs/", "room/", "blocks/", "ledgers/", "expiry/"),
        *("heartbeats/", "grants/", "incidents", "registry/", "lease"),
    ),
    "inspect": (),
    "admin": ("registry/", "site/peers/"),
    "backup": (),
    "restore": (),
    "metrics": (),
}
UPDATES = CREATES | {"watcher": ("index/",)}
READS = {
    "watcher": ("index/", "site/digest-key"),
    "rest": (*CREATES["rest"], "site/"),
    "inspect": ("index/", "pairs/", "ledgers/", "room/", "expiry/", "registry/", "incidents"),
    "admin": CREATES["admin"],
    "backup": (),
    "restore": (),
    "metrics": (),
}
FORGETS = {
    "watcher": (),
    "rest": ("inbox/", "index/", "blocks/", "ledgers/", "room/", "grants/"),
    "inspect": (),
    "admin": ("registry/", "site/peers/"),
    "backup": (),
    "restore": (),
    "metrics": (),
}
LOOKS_AT = {
    "watcher": ("inbox/",),
    "rest": (),
    "inspect": ("",),
    "admin": ("registry/", "site/peers/"),
    "backup": (),
    "restore": (),
    "metrics": (),
}
LISTS = {"rest", "inspect"}

ROOT_ONLY: dict[str, Act] = {
    "policies": lambda c: c.sys.list_acl_policies(),
    "write a policy": lambda c: c.sys.create_or_update_acl_policy("rest", 'path "*" {}'),
    "mounts": lambda c: c.sys.list_mounted_secrets_engines(),
    "audit devices": lambda c: c.sys.list_enabled_audit_devices(),
    "audit off": lambda c: c.sys.disable_audit_device("file"),
    "login roles": lambda c: c.auth.cert.list_certificate_roles(),
    "tokens": lambda c: c.list("auth/token/accessors"),
    "another token": lambda c: c.auth.token.create(policies=["root"]),
    "seal": lambda c: c.sys.seal(),
    "issue with a key": lambda c: c.secrets.pki.generate_certificate(
        "sae", "x", mount_point="pki-sae"
    ),
    "sign anything": lambda c: c.write_data("pki-sae/sign-verbatim", data={"csr": ""}),
    "sign an authority": lambda c: c.write_data("pki-kme/root/sign-intermediate", data={}),
    "sign a service": lambda c: c.write_data("pki-services/sign/service-rest", data={"csr": ""}),
    "sign a KME": lambda c: c.write_data("pki-kme/sign/kme-client", data={"csr": ""}),
    "widen a role": lambda c: c.write_data("pki-sae/roles/sae", data={"allow_any_name": True}),
    "a CA's key": lambda c: c.write_data("pki-sae/keys/generate/exported", data={}),
    "settings of the store": lambda c: c.write_data("kme/config", data={"cas_required": False}),
    "raw storage": lambda c: c.read("sys/raw/core"),
    "another Vault's snapshot": lambda c: c.sys.force_restore_raft_snapshot(b""),
}


@pytest.fixture(scope="module", params=sorted(LOGINS))
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(installed: FreshVault, role: str) -> Iterator[hvac.Client]:
    client = open_client(installed.address_of(LOGINS[role]))
    client.auth.cert.login(name=role)
    yield client
    client.auth.token.revoke_self()


def is_refused(act: Act, client: hvac.Client) -> bool:
    try:
        act(client)
    except Forbidden:
        return True
    except (InvalidPath, InvalidRequest):
        return False  # Vault looked at what was asked, so it was allowed to be asked
    return False


def _write_versions(client: hvac.Client, path: str) -> object:
    return client.write_data(path, data={"versions": [1]})


def fresh_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def among(path: str, allowed: tuple[str, ...]) -> bool:
    return path.startswith(allowed) if allowed else False


def test_a_token_has_one_policy_and_ends_soon(client: hvac.Client, role: str) -> None:
    found = client.auth.token.lookup_self()["data"]
    assert found["policies"] == [role]
    assert found["creation_ttl"] == 600
    client.auth.token.renew_self()
    assert client.auth.token.lookup_self()["data"]["ttl"] <= 600


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_are_read_and_written_by_who_must(
    client: hvac.Client, role: str, path: str
) -> None:
    kv = client.secrets.kv.v2

    def read(_: hvac.Client) -> object:
        return kv.read_secret_version(path, mount_point="kme", raise_on_deleted_version=True)

    def write(_: hvac.Client) -> object:
        # A version that is not there: allowed, it fails at check-and-set; nothing is written.
        return kv.create_or_update_secret(path, {"a": "b"}, cas=99, mount_point="kme")

    def look_at(_: hvac.Client) -> object:
        return kv.read_secret_metadata(path, mount_point="kme")

    def patch(_: hvac.Client) -> object:
        return client.adapter.request(
            "patch",
            f"/v1/kme/data/{path}",
            headers={"Content-Type": "application/merge-patch+json"},
            json={"data": {}, "options": {"cas": 99}},
        )

    def forget(_: hvac.Client) -> object:
        return client.adapter.delete(f"/v1/kme/metadata/{path}-of-nobody")

    assert is_refused(read, client) != among(path, READS[role])
    exists = path in {"site/digest-key", "registry/saes"}
    may_write = among(path, UPDATES[role] if exists else CREATES[role])
    assert is_refused(write, client) != may_write
    assert is_refused(look_at, client) != among(path, LOOKS_AT[role])
    assert is_refused(forget, client) != among(path, FORGETS[role])
    for kind in ("destroy", "undelete", "delete"):
        assert is_refused(partial(_write_versions, path=f"kme/{kind}/{path}"), client)
    assert is_refused(lambda c: c.adapter.delete(f"/v1/kme/data/{path}"), client)
    assert is_refused(patch, client)


@pytest.mark.parametrize("what", sorted(ROOT_ONLY))
def test_what_only_root_may_do_is_refused(client: hvac.Client, what: str) -> None:
    assert is_refused(ROOT_ONLY[what], client)


def test_names_are_listed_by_who_must(client: hvac.Client, role: str) -> None:
    def names(c: hvac.Client) -> object:
        return c.secrets.kv.v2.list_secrets("inbox", mount_point="kme")

    assert is_refused(names, client) != (role in LISTS)


def test_only_admin_signs_and_revokes_certificates_of_saes(client: hvac.Client, role: str) -> None:
    for act in (
        lambda c: c.write_data("pki-sae/sign/sae", data={"csr": "none"}),
        lambda c: c.write_data("pki-sae/revoke", data={"serial_number": "00"}),
        lambda c: c.adapter.get("/v1/pki-sae/crl/rotate"),
    ):
        assert is_refused(act, client) != (role == "admin")


def test_only_metrics_reads_the_numbers_of_vault(client: hvac.Client, role: str) -> None:
    assert is_refused(lambda c: c.read("sys/metrics"), client) != (role == "metrics")


def test_snapshots_are_taken_and_put_back_by_a_role_each(client: hvac.Client, role: str) -> None:
    def take(asked: hvac.Client) -> None:
        asked.sys.take_raft_snapshot().close()

    def put_back(asked: hvac.Client) -> None:
        with contextlib.suppress(InternalServerError):  # allowed, and no snapshot
            asked.sys.restore_raft_snapshot(b"none")

    assert is_refused(take, client) != (role == "backup")
    assert is_refused(put_back, client) != (role == "restore")


def test_a_created_inbox_entry_is_not_replaced_by_the_watcher(installed: FreshVault) -> None:
    client = open_client(installed.address_of("watcher"))
    client.auth.cert.login(name="watcher")
    kv, path = client.secrets.kv.v2, "inbox/kme-2/qkd-1/00000009-0"
    kv.create_or_update_secret(path, {"key": "AA=="}, cas=0, mount_point="kme")
    for version in (0, 1):
        with pytest.raises(Forbidden):
            kv.create_or_update_secret(path, {"key": "AB=="}, cas=version, mount_point="kme")


@pytest.mark.parametrize("service", ["unsealer", "traefik", "watcher", "rest", "operator"])
@pytest.mark.parametrize("role", sorted(LOGINS), indirect=False)
def test_a_certificate_logs_in_as_its_own_role_only(
    installed: FreshVault, service: str, role: str
) -> None:
    address = installed.address_of(service)
    if service == "traefik":
        tls = installed.places.out / "traefik"
        credential = type(address.credential)(tls / "hop.pem", tls / "hop-key.pem")
        address = type(address)(address.url, installed.address.ca, credential)
    client = open_client(address)
    if LOGINS[role] == service:
        assert client.auth.cert.login(name=role)["auth"]["token_policies"] == [role]
        client.auth.token.revoke_self()
    else:
        with pytest.raises(VaultError):
            client.auth.cert.login(name=role)


def test_vault_init_itself_cannot_log_in(installed: FreshVault) -> None:
    client = open_client(installed.address)
    for role in (*LOGINS, ""):
        with pytest.raises(VaultError):
            client.auth.cert.login(name=role)


def test_a_certificate_that_admin_revokes_is_on_the_list_at_once(installed: FreshVault) -> None:
    client = open_client(installed.address_of("operator"))
    client.auth.cert.login(name="admin")
    sans = {"uri_sans": "sae-id:alice", "exclude_cn_from_sans": True}
    signed = client.secrets.pki.sign_certificate(
        "sae", fresh_request(), "alice", extra_params=sans, mount_point="pki-sae"
    )["data"]

    def revoked() -> set[int]:
        pem = client.adapter.get("/v1/pki-sae/crl/pem").content
        return {entry.serial_number for entry in x509.load_pem_x509_crl(pem)}

    assert not revoked()
    client.secrets.pki.revoke_certificate(signed["serial_number"], mount_point="pki-sae")
    client.secrets.pki.rotate_crl(mount_point="pki-sae")
    assert revoked() == {int(signed["serial_number"].replace(":", ""), 16)}


@pytest.mark.parametrize(
    "sans",
    [
        {"uri_sans": "kme-id:kme-1"},
        {"uri_sans": "service-id:rest"},
        {"uri_sans": "sae-id:alice,service-id:rest"},
        {"uri_sans": "sae-id:alice", "alt_names": "rest"},
        {"uri_sans": "sae-id:alice", "alt_names": "localhost"},
        {"uri_sans": "sae-id:alice", "ip_sans": "127.0.0.1"},
        {"uri_sans": "sae-id:alice", "other_sans": "1.2.3.4;UTF8:x"},
    ],
)
def test_admin_signs_nothing_but_names_of_saes(installed: FreshVault, sans: dict[str, str]) -> None:
    client = open_client(installed.address_of("operator"))
    client.auth.cert.login(name="admin")
    with pytest.raises(InvalidRequest):
        client.secrets.pki.sign_certificate(
            "sae",
            fresh_request(),
            "alice",
            extra_params={**sans, "exclude_cn_from_sans": True},
            mount_point="pki-sae",
        )
