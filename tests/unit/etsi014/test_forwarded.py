"""A certificate in a header counts only from the proxy, only once, and only if it is right."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import IdentityError, UnavailableError
from kme.etsi014.forwarded import ForwardedCertificate
from kme.etsi014.identity import CertificateIdentity
from kme.ids import SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.revoked import RevocationMemory
from simulation import VirtualClock

CLOCK = VirtualClock()
NOW = datetime.fromtimestamp(CLOCK.now_s(), UTC)
DAY = Validity.lasting(timedelta(days=1), NOW)
ROOT = Authority.root("root", DAY)
SAES = ROOT.issue_authority("SAEs", TlsRole.CLIENT, DAY)
OTHERS = ROOT.issue_authority("SAEs", TlsRole.CLIENT, DAY)
SERVICES = ROOT.issue_authority("services", TlsRole.SERVER | TlsRole.CLIENT, DAY)
NAME = b"x-forwarded-tls-client-cert"
ALICE = SaeId("alice")

Headers = Sequence[tuple[bytes, bytes]]


def leaf(
    *uris: str,
    by: Authority = SAES,
    roles: TlsRole = TlsRole.CLIENT,
    validity: Validity = DAY,
) -> x509.Certificate:
    return by.issue(Leaf("any", roles, uris or ("sae-id:alice",)), validity).certificate


def text(*certificates: x509.Certificate) -> bytes:
    return b",".join(base64.b64encode(c.public_bytes(Encoding.DER)) for c in certificates)


TRAEFIK = leaf("service-id:traefik", by=SERVICES)
AUTHORITY = SAES.credential.certificate
BOB = leaf("sae-id:bob")
CERTIFICATE = leaf()
GOOD = text(CERTIFICATE)


def scope(headers: Headers, hop: x509.Certificate | None = TRAEFIK) -> dict[str, Any]:
    chain = [] if hop is None else [hop.public_bytes(Encoding.PEM).decode()]
    return {"headers": list(headers), "extensions": {"tls": {"client_cert_chain": chain}}}


def crl(
    *revoked: x509.Certificate,
    by: Authority = SAES,
    number: int = 1,
    validity: Validity = DAY,
) -> bytes:
    made = by.revocation_list({c.serial_number: NOW for c in revoked}, number, validity)
    return made.public_bytes(Encoding.PEM)


class Door:
    """What stands behind the proxy; no list of revoked certificates yet."""

    def __init__(self, clock: VirtualClock = CLOCK) -> None:
        self.revoked = RevocationMemory(AUTHORITY, clock)
        find = ForwardedCertificate(
            "traefik", lambda _: AUTHORITY, self.revoked.require_good, clock
        )
        self.identity = CertificateIdentity({ALICE, SaeId("bob")}.__contains__, clock, find)

    def caller(self, scope: dict[str, Any]) -> SaeId:
        return self.identity.caller(scope)


@pytest.fixture
def door() -> Door:
    door = Door()
    door.revoked.learn(crl())
    return door


def test_the_certificate_that_the_proxy_passes_on_names_the_sae(door: Door) -> None:
    assert door.caller(scope([(b"host", b"kme"), (NAME, GOOD)])) == ALICE
    assert door.caller(scope([(NAME, text(CERTIFICATE, AUTHORITY))])) == ALICE


@pytest.mark.parametrize(
    "hop",
    [
        None,
        CERTIFICATE,
        leaf("service-id:watcher", by=SERVICES),
        leaf("service-id:operator", by=SERVICES),
        leaf("service-id:traefik", "service-id:rest", by=SERVICES),
        leaf("service-id:traefikx", by=SERVICES),
        leaf("x-service-id:traefik", by=SERVICES),
    ],
)
def test_only_the_proxy_is_believed(door: Door, hop: x509.Certificate | None) -> None:
    with pytest.raises(IdentityError):
        door.caller(scope([(NAME, GOOD)], hop))


SPOOFED: dict[str, Headers] = {
    "none at all": [],
    "two of them": [(NAME, GOOD), (NAME, GOOD)],
    "two that differ": [(NAME, GOOD), (NAME, text(BOB))],
    "two leaves with a comma": [(NAME, text(CERTIFICATE, BOB))],
    "two leaves with a comma and a space": [(NAME, GOOD + b", " + text(BOB))],
    "underscores": [(b"x_forwarded_tls_client_cert", GOOD)],
    "underscores beside the right one": [(NAME, GOOD), (b"x_forwarded_tls_client_cert", text(BOB))],
    "one underscore": [(NAME, GOOD), (b"x-forwarded-tls_client-cert", text(BOB))],
    "capitals": [(b"X-Forwarded-Tls-Client-Cert", GOOD)],
    "the other header of Traefik": [(NAME, GOOD), (b"x-forwarded-tls-client-cert-info", b"x")],
    "that of nginx": [(NAME, GOOD), (b"x-ssl-client-cert", text(BOB))],
    "that of RFC 9440": [(NAME, GOOD), (b"client-cert", b":" + text(BOB) + b":")],
    "that of Amazon": [(NAME, GOOD), (b"x-amzn-mtls-clientcert-leaf", text(BOB))],
    "a name alone": [(NAME, GOOD), (b"x-sae-id", b"bob")],
    "a distinguished name": [(NAME, GOOD), (b"ssl_client_s_dn", b"CN=bob")],
    "empty": [(NAME, b"")],
    "armour": [(NAME, CERTIFICATE.public_bytes(Encoding.PEM).replace(b"\n", b" "))],
    "percent signs": [(NAME, GOOD.replace(b"+", b"%2B").replace(b"/", b"%2F") + b"%0A")],
    "a trailing comma": [(NAME, GOOD + b",")],
    "base64 that is not proper": [(NAME, GOOD.rstrip(b"=") + b"====")],
    "a line break": [(NAME, GOOD[:64] + b"\n" + GOOD[64:])],
    "something behind the certificate": [
        (NAME, base64.b64encode(CERTIFICATE.public_bytes(Encoding.DER) + b"\0"))
    ],
    "no certificate": [(NAME, base64.b64encode(b"alice"))],
    "too many": [(NAME, text(CERTIFICATE, *[AUTHORITY] * 4))],
    "too long": [(NAME, b"A" * 100_000)],
}


@pytest.mark.parametrize("headers", SPOOFED.values(), ids=SPOOFED)
def test_any_other_spelling_is_refused(door: Door, headers: Headers) -> None:
    with pytest.raises(IdentityError):
        door.caller(scope(headers))


YESTERDAY = Validity(NOW - timedelta(days=2), NOW - timedelta(days=1))
WRONG = {
    "from an authority of the same name": leaf(by=OTHERS),
    "from the root": leaf(by=ROOT),
    "from the services' authority": leaf(by=SERVICES),
    "for servers": leaf(roles=TlsRole.SERVER),
    "of nobody": leaf("kme-id:alice"),
    "of two": leaf("sae-id:alice", "sae-id:bob"),
    "of a stranger": leaf("sae-id:mallory"),
    "the authority itself": AUTHORITY,
}


@pytest.mark.parametrize("certificate", WRONG.values(), ids=WRONG)
def test_a_certificate_that_is_not_quite_right_is_refused(
    door: Door, certificate: x509.Certificate
) -> None:
    with pytest.raises(IdentityError):
        door.caller(scope([(NAME, text(certificate))]))


def test_a_certificate_ends_while_it_is_remembered() -> None:
    clock = VirtualClock()
    door = Door(clock)
    door.revoked.learn(crl(validity=Validity.lasting(timedelta(days=9), NOW)))
    assert door.caller(scope([(NAME, GOOD)])) == ALICE
    clock.advance(86_500)
    with pytest.raises(IdentityError, match="not valid now"):
        door.caller(scope([(NAME, GOOD)]))


def test_a_certificate_is_revoked_while_it_is_remembered(door: Door) -> None:
    assert door.caller(scope([(NAME, GOOD)])) == ALICE
    door.revoked.learn(crl(CERTIFICATE, number=2))
    with pytest.raises(IdentityError, match="revoked"):
        door.caller(scope([(NAME, GOOD)]))
    assert door.caller(scope([(NAME, text(BOB))])) == SaeId("bob")


def test_without_a_revocation_list_nobody_is_let_in() -> None:
    with pytest.raises(UnavailableError):
        Door().caller(scope([(NAME, GOOD)]))
