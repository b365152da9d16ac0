"""Who calls: every unclear case is an error."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import IdentityError
from kme.etsi014.identity import CertificateIdentity, certificate_of_connection, sae_of_uri
from kme.ids import SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from simulation import VirtualClock

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DAY = Validity.lasting(timedelta(days=1), NOW)
ISSUER = Authority.root("root", DAY).issue_authority("issuer", TlsRole.CLIENT, DAY)
ALICE = SaeId("alice")
BOTH = TlsRole.SERVER | TlsRole.CLIENT


class Noon:
    """A clock that shows what it is told."""

    def __init__(self, moment: datetime = NOW) -> None:
        self.moment = moment

    def now_s(self) -> float:
        return self.moment.timestamp()

    def monotonic_s(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, duration_s: float) -> None:
        self.moment += timedelta(seconds=duration_s)


def scope_of(certificate: x509.Certificate) -> dict[str, Any]:
    pem = certificate.public_bytes(Encoding.PEM).decode()
    return {"extensions": {"tls": {"client_cert_chain": [pem]}}}


def shown(*uris: str, roles: TlsRole = TlsRole.CLIENT) -> dict[str, Any]:
    return scope_of(ISSUER.issue(Leaf("any", roles, uris), DAY).certificate)


def identity(clock: Noon | None = None, *saes: SaeId) -> CertificateIdentity:
    registered = set(saes or (ALICE,))
    return CertificateIdentity(registered.__contains__, clock or Noon())


def test_the_one_uri_of_a_client_certificate_names_the_sae() -> None:
    assert identity().caller(shown("sae-id:alice")) == ALICE
    assert identity().caller(shown("sae-id:alice", "kme-id:x", roles=BOTH)) == ALICE


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("kme-id:alice",),
        ("sae-id:",),
        ("sae-id:alice", "sae-id:bob"),
        ("sae-id:a b",),
        ("sae-id:mallory",),
    ],
)
def test_anything_else_names_nobody(uris: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError):
        identity().caller(shown(*uris))


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"extensions": {}},
        {"extensions": {"tls": {}}},
        {"extensions": {"tls": {"client_cert_chain": ()}}},
    ],
)
def test_no_certificate_is_nobody(scope: dict[str, Any]) -> None:
    with pytest.raises(IdentityError, match="no client certificate"):
        identity().caller(scope)


@pytest.mark.parametrize("pem", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAA==\n", "ü"])
def test_a_certificate_that_cannot_be_read_is_nobody(pem: str) -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        identity().caller({"extensions": {"tls": {"client_cert_chain": [pem]}}})


def test_a_servers_certificate_is_nobody() -> None:
    with pytest.raises(IdentityError, match="not for clients"):
        identity().caller(shown("sae-id:alice", roles=TlsRole.SERVER))


def test_an_authority_is_nobody() -> None:
    root = Authority.root("root", DAY).credential.certificate
    with pytest.raises(IdentityError, match="does not say"):
        identity().caller(scope_of(root))


def test_a_certificate_that_expires_on_an_open_connection_ends_its_identity() -> None:
    clock = Noon()
    tells, scope = identity(clock), shown("sae-id:alice")
    assert tells.caller(scope) == ALICE
    clock.moment = DAY.end + timedelta(seconds=1)
    with pytest.raises(IdentityError, match="not valid now"):
        tells.caller(scope)
    clock.moment = DAY.start - timedelta(seconds=1)
    with pytest.raises(IdentityError, match="not valid now"):
        tells.caller(scope)


def test_an_sae_that_is_removed_on_an_open_connection_is_nobody() -> None:
    registered = {ALICE}
    tells = CertificateIdentity(registered.__contains__, Noon())
    scope = shown("sae-id:alice")
    assert tells.caller(scope) == ALICE
    registered.clear()
    with pytest.raises(IdentityError, match="not registered"):
        tells.caller(scope)


def test_what_was_read_is_remembered_within_bounds() -> None:
    n_read = 0

    def counting(certificate: x509.Certificate) -> SaeId:
        nonlocal n_read
        n_read += 1
        return sae_of_uri(certificate)

    tells = CertificateIdentity(lambda _: True, Noon(), read=counting)
    scopes = [shown(f"sae-id:sae-{i}") for i in range(3)]
    for _ in range(5):
        for i, scope in enumerate(scopes):
            assert tells.caller(scope) == f"sae-{i}"
    assert n_read == 3
    assert tells._facts.cache_info().maxsize == 1024


def test_refusals_are_not_remembered_as_identities() -> None:
    tells = identity()
    scope = shown("sae-id:alice", "sae-id:bob")
    for _ in range(2):
        with pytest.raises(IdentityError, match="more than one"):
            tells.caller(scope)


def test_another_place_and_another_name_rule_can_be_given() -> None:
    header = ISSUER.issue(Leaf("carol", TlsRole.CLIENT, ("https://x",)), DAY).certificate

    def find(scope: Any) -> str:
        return str(scope["forwarded"])

    def read(certificate: x509.Certificate) -> SaeId:
        [name] = certificate.subject
        return SaeId(str(name.value))

    tells = CertificateIdentity(lambda _: True, VirtualClock(NOW.timestamp()), find, read)
    scope = {"forwarded": header.public_bytes(Encoding.PEM).decode()}
    assert tells.caller(scope) == "carol"


def test_the_leaf_is_the_first_of_the_chain() -> None:
    scope = {"extensions": {"tls": {"client_cert_chain": ["leaf", "issuer"]}}}
    assert certificate_of_connection(scope) == "leaf"
