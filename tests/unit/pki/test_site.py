import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kme.errors import CredentialError
from kme.ids import KmeId, SaeId
from kme.pki.authority import list_number, revoked_serials
from kme.pki.bundle import (
    CredentialFiles,
    load_certificates,
    load_credential,
    load_revocation_list,
)
from kme.pki.site import LEAF_LIFETIME, RENEW_BEFORE, Issuer, SitePki, make_pki, revoke

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KMES = [KmeId("kme-a"), KmeId("kme-b")]
ALICE, BOB = SaeId("alice"), SaeId("bob")
HOSTS = ["127.0.0.1", "localhost"]


def make(
    directory: Path,
    now: datetime = NOW,
    saes: tuple[SaeId, ...] = (ALICE, BOB),
    hosts: list[str] = HOSTS,
) -> SitePki:
    return make_pki(directory, KMES, saes, hosts, now)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def leaf(files: CredentialFiles) -> x509.Certificate:
    return load_credential(files, None).certificate


def test_everybody_gets_a_certificate_of_the_right_issuer(tmp_path: Path) -> None:
    pki = make(tmp_path)
    root = load_certificates(pki.root_ca, NOW)[0]
    for ca, leaves in (
        (pki.service_ca, pki.service_certificates.values()),
        (pki.kme_ca, pki.kme_certificates.values()),
        (pki.sae_ca, pki.sae_certificates.values()),
    ):
        [issuer] = load_certificates(ca, NOW)
        issuer.verify_directly_issued_by(root)
        assert len(leaves) == 2
        for files in leaves:
            chain = load_credential(files, NOW).chain
            assert chain[1] == issuer
            chain[0].verify_directly_issued_by(issuer)


def test_making_it_again_changes_nothing(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = contents(tmp_path)
    assert make(tmp_path, NOW + timedelta(days=100)) == first
    assert contents(tmp_path) == before


def test_a_new_sae_changes_nothing_for_the_others(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    pki = make(tmp_path, saes=(ALICE, BOB, SaeId("carol")))
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    assert load_credential(pki.sae_certificates[SaeId("carol")], NOW).chain


def test_what_is_lost_or_spoilt_of_a_leaf_is_made_again(tmp_path: Path) -> None:
    pki = make(tmp_path)
    pki.sae_certificates[ALICE].key.unlink()
    pki.sae_certificates[BOB].certificate.write_bytes(b"spoilt")
    shutil.copy(pki.kme_certificates[KMES[0]].key, pki.kme_certificates[KMES[1]].key)
    make(tmp_path)
    for files in (*pki.sae_certificates.values(), pki.kme_certificates[KMES[1]]):
        load_credential(files, NOW)


def test_what_ends_soon_is_made_again_and_the_rest_is_kept(tmp_path: Path) -> None:
    pki = make(tmp_path)
    before = contents(tmp_path)
    later = NOW + LEAF_LIFETIME - RENEW_BEFORE + timedelta(days=1)
    make(tmp_path, later)
    changed = {name for name, data in contents(tmp_path).items() if data != before[name]}
    assert "root-ca/ca.pem" not in changed
    assert "sae-ca/ca.key" not in changed
    assert {"sae/alice/sae.pem", "kme/kme-a/peer.key", "sae-ca/crl.pem"} <= changed
    load_credential(pki.sae_certificates[ALICE], later + timedelta(days=200))


@pytest.mark.parametrize("years", [5, 11])
def test_even_expired_authorities_are_replaced_with_all_below(tmp_path: Path, years: int) -> None:
    pki = make(tmp_path)
    later = NOW + timedelta(days=366 * years)
    assert make(tmp_path, later) == pki
    [issuer] = load_certificates(pki.sae_ca, later)
    load_credential(pki.sae_certificates[ALICE], later).certificate.verify_directly_issued_by(
        issuer
    )
    assert load_revocation_list(pki.sae_crl, later).is_signature_valid(issuer.public_key())  # type: ignore[arg-type]


def test_other_hosts_make_other_server_certificates(tmp_path: Path) -> None:
    pki = make(tmp_path)
    alice, service = leaf(pki.sae_certificates[ALICE]), leaf(pki.service_certificates[KMES[0]])
    make(tmp_path, hosts=["kme.example"])
    assert leaf(pki.sae_certificates[ALICE]) == alice
    assert leaf(pki.service_certificates[KMES[0]]) != service


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_a_damaged_authority_is_told_and_never_replaced(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    damaged = tmp_path / "sae-ca" / name
    damaged.write_bytes(b"damaged")
    with pytest.raises(CredentialError, match=str(damaged)):
        make(tmp_path)
    assert damaged.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    "name", ["../../etc/x", ".", "..", "a/b", "A" * 128, "%2e%2e", "/" * 128, 'q"uo\\te']
)
def test_any_sae_id_has_its_files_within_the_folder(tmp_path: Path, name: str) -> None:
    pki = make(tmp_path / "pki", saes=(SaeId(name), ALICE))
    files = pki.sae_certificates[SaeId(name)]
    assert files.key.resolve().is_relative_to(tmp_path / "pki" / "sae")
    assert files != pki.sae_certificates[ALICE]
    names = leaf(files).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"sae-id:{name}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pki"]


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    make(tmp_path)
    keys = list(tmp_path.rglob("*.key"))
    assert len(keys) == 4 + 2 * 2 + 2
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_revoked_certificates_stay_revoked(tmp_path: Path) -> None:
    pki = make(tmp_path)
    serials = set()
    for sae in (ALICE, BOB):
        certificate = leaf(pki.sae_certificates[sae])
        revoke(tmp_path, Issuer.SAE, certificate, NOW)
        serials.add(certificate.serial_number)
    listed = load_revocation_list(pki.sae_crl, NOW)
    assert set(revoked_serials(listed)) == serials
    make(tmp_path, NOW + LEAF_LIFETIME)
    renewed = load_revocation_list(pki.sae_crl, NOW + LEAF_LIFETIME)
    assert set(revoked_serials(renewed)) == serials
    assert list_number(renewed) > list_number(listed) > 1


def test_only_the_issuer_revokes(tmp_path: Path) -> None:
    pki = make(tmp_path)
    with pytest.raises(CredentialError, match="kme-ca did not issue"):
        revoke(tmp_path, Issuer.KME, leaf(pki.sae_certificates[ALICE]), NOW)
    with pytest.raises(CredentialError, match="cannot be read"):
        revoke(tmp_path / "empty", Issuer.SAE, leaf(pki.sae_certificates[ALICE]), NOW)
