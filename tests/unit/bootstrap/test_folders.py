from pathlib import Path

import pytest

from certauth_site import NOW, CertauthSite
from kme.bootstrap.folders import Folders, mode_of, place_of
from kme.pki.bundle import load_certificates


def test_a_file_has_its_place_and_mode() -> None:
    folders = Folders(Path("/a"), Path("/b"), Path("/c"))
    names = ("ca/key.pem", "exchange/root.pem", "out/vault/server.pem")
    assert [folders.path(name) for name in names] == [
        Path("/a/key.pem"), Path("/b/root.pem"), Path("/c/vault/server.pem"),
    ]  # fmt: skip
    assert [mode_of(name) for name in names] == [0o600, 0o644, 0o640]
    with pytest.raises(ValueError, match="elsewhere"):
        place_of("elsewhere/x")


def test_what_is_published_already_is_not_touched(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    site.make()
    root = load_certificates(site.path("ca/root.pem"), NOW)
    before = site.contents()
    site.folders.publish(root, ["exchange/root.pem"])
    assert site.contents() == before
    site.folders.publish([*root, *root], ["exchange/root.pem"])
    assert site.contents() != before


def test_a_link_that_another_service_put_there_opens_nothing(tmp_path: Path) -> None:
    site = CertauthSite(tmp_path)
    site.make()
    root, key = site.path("ca/root.pem"), site.path("ca/root-key.pem")
    for target in (root, key):
        mode, content = target.stat().st_mode, target.read_bytes()
        site.path("exchange/root.pem").unlink()
        site.path("exchange/root.pem").symlink_to(target)
        site.make()
        assert (target.stat().st_mode, target.read_bytes()) == (mode, content)
        assert site.path("exchange/root.pem").read_bytes() == root.read_bytes()
