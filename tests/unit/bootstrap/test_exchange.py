from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kme.bootstrap.engines import KME, SAE, SERVICES
from kme.bootstrap.exchange import read_authorities
from kme.errors import CredentialError
from kme.pki.authority import Authority, AuthorityTerms, Leaf, TlsRole, Validity, new_key
from kme.pki.bundle import Credential, write_certificates

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
YEARS = Validity.lasting(timedelta(days=3650), NOW)
BOTH = TlsRole.SERVER | TlsRole.CLIENT


def under(above: Authority, name: str, path_length: int = 0) -> Authority:
    key = new_key()
    terms = AuthorityTerms(name, path_length, BOTH)
    return Authority(Credential(above.certify(terms, key.public_key(), YEARS), key))


ROOT = Authority.root("root", YEARS, path_length=2)
INTERMEDIATE = under(ROOT, "services intermediate", 1)
ISSUERS = {
    "root": ROOT,
    "services-intermediate": INTERMEDIATE,
    "services": under(INTERMEDIATE, "services"),
    "kme": under(ROOT, "kme"),
    "sae": under(ROOT, "sae"),
}


@pytest.fixture
def exchange(tmp_path: Path) -> Path:
    for name, authority in ISSUERS.items():
        write_certificates(authority.credential.chain, tmp_path / f"{name}.pem")
    return tmp_path


def test_every_authority_is_read(exchange: Path) -> None:
    found = read_authorities(exchange, NOW)
    assert found.root == ROOT.credential.certificate
    assert found.of(KME) == ISSUERS["kme"].credential.certificate


def test_a_chain_goes_up_to_below_the_root(exchange: Path) -> None:
    found = read_authorities(exchange, NOW)
    assert found.chain_of(SERVICES) == (found.services, found.services_intermediate)
    assert found.chain_of(SAE) == (found.sae,)


@pytest.mark.parametrize("name", [*ISSUERS])
def test_one_that_is_missing_is_named_with_what_to_run(exchange: Path, name: str) -> None:
    (exchange / f"{name}.pem").unlink()
    with pytest.raises(CredentialError, match=rf"{name}\.pem: is not there: run `certauth "):
        read_authorities(exchange, NOW)


@pytest.mark.parametrize(
    ("name", "other"), [("services", "kme"), ("sae", "services"), ("kme", "services")]
)
def test_one_that_hangs_under_another_is_refused(exchange: Path, name: str, other: str) -> None:
    write_certificates([ISSUERS[other].credential.certificate], exchange / f"{name}.pem")
    with pytest.raises(CredentialError, match=rf"{name}\.pem: not issued by"):
        read_authorities(exchange, NOW)


def test_one_of_another_site_is_refused(exchange: Path) -> None:
    stranger = Authority.root("root", YEARS, path_length=2)
    write_certificates([under(stranger, "sae").credential.certificate], exchange / "sae.pem")
    with pytest.raises(CredentialError, match="not issued by"):
        read_authorities(exchange, NOW)


def test_an_end_certificate_is_no_authority(exchange: Path) -> None:
    leaf = ROOT.issue(Leaf("sae", TlsRole.CLIENT, ("sae-id:x",)), YEARS)
    write_certificates(leaf.chain, exchange / "sae.pem")
    with pytest.raises(CredentialError, match="not the certificate of an authority"):
        read_authorities(exchange, NOW)


def test_an_expired_one_is_refused(exchange: Path) -> None:
    with pytest.raises(CredentialError, match="expired"):
        read_authorities(exchange, NOW + timedelta(days=4000))
