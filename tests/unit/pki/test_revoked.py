"""The list of revoked certificates never goes back, and none is none."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import CredentialError, IdentityError, UnavailableError
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.revoked import RevocationMemory
from simulation import VirtualClock

NOW = datetime.fromtimestamp(VirtualClock().now_s(), UTC)
DAY = Validity.lasting(timedelta(days=1), NOW)
YEAR = Validity.lasting(timedelta(days=365), NOW)
ROOT = Authority.root("root", YEAR)
ISSUER = ROOT.issue_authority("SAEs", TlsRole.CLIENT, YEAR)
IMPOSTOR = ROOT.issue_authority("SAEs", TlsRole.CLIENT, YEAR)
GOOD = ISSUER.issue(Leaf("good", TlsRole.CLIENT, ("sae-id:good",)), YEAR).certificate
BAD = ISSUER.issue(Leaf("bad", TlsRole.CLIENT, ("sae-id:bad",)), YEAR).certificate


def crl(
    number: int, *, by: Authority = ISSUER, validity: Validity = DAY, bad: bool = True
) -> bytes:
    serials = {BAD.serial_number: NOW} if bad else {}
    return by.revocation_list(serials, number, validity).public_bytes(Encoding.PEM)


def memory(clock: VirtualClock | None = None) -> RevocationMemory:
    return RevocationMemory(ISSUER.credential.certificate, clock or VirtualClock())


def test_before_the_first_list_nobody_is_good() -> None:
    with pytest.raises(UnavailableError):
        memory().require_good(GOOD)


def test_the_listed_are_refused_and_the_others_are_good() -> None:
    revoked = memory()
    revoked.learn(crl(1))
    revoked.require_good(GOOD)
    with pytest.raises(IdentityError, match="revoked"):
        revoked.require_good(BAD)


def test_an_older_list_is_left_aside() -> None:
    revoked = memory()
    revoked.learn(crl(2))
    revoked.learn(crl(1, bad=False))
    with pytest.raises(IdentityError):
        revoked.require_good(BAD)


def test_a_newer_list_counts() -> None:
    revoked = memory()
    revoked.learn(crl(1, bad=False))
    revoked.require_good(BAD)
    revoked.learn(crl(2))
    with pytest.raises(IdentityError):
        revoked.require_good(BAD)


def test_a_list_that_ran_out_is_none() -> None:
    clock = VirtualClock()
    revoked = memory(clock)
    revoked.learn(crl(1))
    clock.advance(86_400)
    with pytest.raises(UnavailableError):
        revoked.require_good(GOOD)
    with pytest.raises(CredentialError, match="out of date"):
        revoked.learn(crl(1))
    revoked.learn(crl(2, validity=YEAR))
    revoked.require_good(GOOD)


@pytest.mark.parametrize(
    "pem",
    [b"", b"nonsense", crl(9, by=IMPOSTOR), crl(9, by=ROOT), GOOD.public_bytes(Encoding.PEM)],
)
def test_what_the_authority_did_not_sign_changes_nothing(pem: bytes) -> None:
    revoked = memory()
    revoked.learn(crl(1))
    with pytest.raises(CredentialError):
        revoked.learn(pem)
    revoked.require_good(GOOD)
    with pytest.raises(IdentityError):
        revoked.require_good(BAD)
