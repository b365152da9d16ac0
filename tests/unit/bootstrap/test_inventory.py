from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes

from certauth_site import NOW, CertauthSite
from kme.bootstrap.inventory import take_inventory
from kme.pki.bundle import load_certificates


def test_what_there_is_and_what_is_missing_is_told(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    site.make()
    site.path("out/vault/health.pem").write_bytes(b"spoilt")
    entries = {one.name: one for one in take_inventory(site.profiles, site.folders, NOW)}
    assert list(entries) == list(site.profiles.tables)
    root = load_certificates(site.path("ca/root.pem"), NOW)[0]
    assert entries["root"].fingerprint == root.fingerprint(hashes.SHA256()).hex()
    assert entries["root"].subject == "CN=kme-1 (Lab) root CA"
    assert entries["root"].ends == "2036-11-18"
    assert (entries["kme"].ends, entries["kme"].fingerprint) == ("not made yet", "")
    assert (entries["vault-health"].ends, entries["vault-health"].fingerprint) == ("damaged", "")


def test_what_has_ended_is_told(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    site.make()
    late = NOW + timedelta(days=2000)
    entries = {one.name: one.ends for one in take_inventory(site.profiles, site.folders, late)}
    assert entries["vault"] == "ended 2031-11-20"
    assert entries["root"] == "2036-11-18"
