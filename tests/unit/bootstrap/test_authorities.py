"""Authorities are made once, renewed under their key, and never replaced."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certauth_site import NOW, CertauthSite
from kme.bootstrap.authorities import Authorities
from kme.bootstrap.folders import Folders
from kme.errors import CredentialError
from kme.pki.authority import Authority, Validity
from kme.pki.bundle import CredentialFiles, load_certificates, load_credential, write_credential

NAMES = ("root", "services-intermediate")
YEARS = timedelta(days=3650)


@pytest.fixture
def site(tmp_path: Path) -> CertauthSite:
    site = CertauthSite(tmp_path)
    site.make()
    return site


def refuse(site: CertauthSite, says: str, now: timedelta = timedelta()) -> None:
    """Check that nothing is made and the reason says what to do."""
    before = site.contents()
    with pytest.raises(CredentialError, match=says):
        site.make(NOW + now)
    assert site.contents() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_key_is_told_and_no_second_authority_made(site: CertauthSite, name: str) -> None:
    site.path(f"ca/{name}-key.pem").unlink()
    refuse(site, f"the key of the authority '{name}' is gone.*backup.*make clean")


def test_a_lost_folder_is_told_by_the_copies_that_remain(site: CertauthSite) -> None:
    for path in site.folders.ca.iterdir():
        path.unlink()
    refuse(site, f"'root' is gone, and {site.path('exchange/root.pem')} shows that there was one")


@pytest.mark.parametrize("file", ["{}.pem", "{}-key.pem"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_damaged_file_is_named_and_kept(
    site: CertauthSite, name: str, file: str, content: bytes
) -> None:
    path = site.path(f"ca/{file.format(name)}")
    path.write_bytes(content)
    refuse(site, f"the authority '{name}' is damaged: {path}.*[Nn]othing was changed")


def test_a_key_of_another_authority_is_damage(site: CertauthSite) -> None:
    site.path("ca/root-key.pem").write_bytes(
        site.path("ca/services-intermediate-key.pem").read_bytes()
    )
    refuse(site, "'root' is damaged: .*does not belong")


def test_a_key_on_another_curve_is_damage(site: CertauthSite) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    root = Authority.root("kme-1 (Lab) root CA", Validity.lasting(YEARS, NOW), 2, key)
    write_credential(
        root.credential, CredentialFiles(site.path("ca/root.pem"), site.path("ca/root-key.pem"))
    )
    refuse(site, "'root' is damaged: .*P-384")


def test_an_intermediate_of_another_root_is_told(site: CertauthSite, tmp_path: Path) -> None:
    other = CertauthSite(tmp_path / "other")
    other.make()
    for file in ("services-intermediate.pem", "services-intermediate-key.pem"):
        site.path(f"ca/{file}").write_bytes(other.path(f"ca/{file}").read_bytes())
    refuse(site, "was not issued by 'root'.*backup")


@pytest.mark.parametrize(("kme", "name"), [("kme-2", "Lab"), ("kme-1", "Elsewhere")])
def test_a_site_that_takes_another_name_keeps_its_authorities(
    site: CertauthSite, kme: str, name: str
) -> None:
    renamed = CertauthSite(site.directory, kme, name)
    refuse(renamed, r"is 'CN=kme-1 \(Lab\) root CA'.*set KME_ID, KME_SITE and the profile back")


def test_a_clock_before_the_first_day_is_told(site: CertauthSite) -> None:
    refuse(site, "valid only from 2026-11-21 11:00 UTC: is the clock right", -timedelta(days=1))


@pytest.mark.parametrize("wrong", [-timedelta(hours=1), timedelta(hours=1)])
def test_a_clock_wrong_by_an_hour_changes_nothing(site: CertauthSite, wrong: timedelta) -> None:
    before = site.contents()
    site.make(NOW + wrong)
    assert site.contents() == before


@pytest.mark.parametrize("name", NAMES)
def test_killed_before_its_certificate_an_authority_is_completed(tmp_path: Path, name: str) -> None:
    site = CertauthSite(tmp_path)
    site.make()
    key = site.path(f"ca/{name}-key.pem").read_bytes()
    site.path(f"ca/{name}.pem").unlink()
    assert site.make()[name] == "made for the key that was there"
    assert site.path(f"ca/{name}-key.pem").read_bytes() == key
    [leaf, above] = load_certificates(site.path("out/vault/server.pem"), NOW)
    [root] = load_certificates(site.path("ca/root.pem"), NOW)
    leaf.verify_directly_issued_by(above)
    above.verify_directly_issued_by(root)


@pytest.mark.parametrize("late", [-timedelta(days=29), timedelta(days=400)])
def test_what_ends_is_renewed_under_its_key_and_nothing_issued_is_cut_off(
    site: CertauthSite, late: timedelta
) -> None:
    issued = load_credential(
        CredentialFiles(
            site.path("out/vault_init/client.pem"), site.path("out/vault_init/client-key.pem")
        ),
        NOW,
    ).certificate
    keys = {name: site.path(f"ca/{name}-key.pem").read_bytes() for name in NAMES}
    now = NOW + YEARS + late
    did = site.make(now)
    assert {did[name] for name in NAMES} == {"renewed with the same key"}
    assert {name: site.path(f"ca/{name}-key.pem").read_bytes() for name in NAMES} == keys
    [root] = load_certificates(site.path("exchange/root.pem"), now)
    [issuer] = load_certificates(site.path("out/vault/client-ca.pem"), now)
    issuer.verify_directly_issued_by(root)
    issued.verify_directly_issued_by(issuer)
    assert set(site.make(now).values()) == {"kept"}


def test_an_authority_that_must_be_there_and_is_not_is_named(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    folders = Folders(tmp_path / "ca", tmp_path / "exchange", tmp_path / "out")
    with pytest.raises(CredentialError, match="'root' is not there: run `certauth certs` first"):
        Authorities(site.profiles.authorities, folders, NOW).load()


def test_an_authority_that_ends_soon_is_renewed_before_it_is_used(site: CertauthSite) -> None:
    late = NOW + YEARS - timedelta(days=20)
    authorities = Authorities(site.profiles.authorities, site.folders, late)
    with pytest.raises(CredentialError, match="'root' ends on 2036-11-18: run `certauth certs`"):
        authorities.load()
    authorities.make()
    authorities.load()
    assert authorities["root"].credential.certificate.not_valid_after_utc == late + YEARS


def test_the_way_up_ends_with_the_root(site: CertauthSite) -> None:
    authorities = Authorities(site.profiles.authorities, site.folders, NOW)
    authorities.load()
    subjects = [
        one.subject.rfc4514_string() for one in authorities.up_to_root("services-intermediate")
    ]
    assert subjects == ["CN=kme-1 (Lab) services intermediate CA", "CN=kme-1 (Lab) root CA"]
