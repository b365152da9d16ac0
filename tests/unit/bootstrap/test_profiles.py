import re
from pathlib import Path

import pytest

from certauth_site import PROFILES
from kme.bootstrap.profiles import load_profiles
from kme.errors import SettingsError
from kme.pki.authority import TlsRole

ROOT_CA = """
[root]
kind = "authority"
subject = "{kme} ({site}) root"
path_length = 1
lifetime_days = 10
certificate = "ca/root.pem"
key = "ca/root-key.pem"
"""

LEAF = """
[leaf]
kind = "leaf"
subject = "leaf"
issuer = "root"
roles = ["client"]
uris = ["service-id:x"]
lifetime_days = 10
certificate = "out/x/client.pem"
key = "out/x/client-key.pem"
"""

REQUEST = """
[below]
kind = "request"
subject = "below"
issuer = "root"
path_length = 0
roles = ["client"]
lifetime_days = 10
request = "exchange/below.csr"
certificate = "ca/below.pem"
"""


def load(tmp_path: Path, text: str, kme: str = "kme-1", site: str = "Lab") -> object:
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    return load_profiles(path, kme, site)


def test_the_profiles_of_the_appliance_hold() -> None:
    profiles = load_profiles(PROFILES, "kme-1", "Lab")
    assert list(profiles.authorities) == ["root", "services-intermediate"]
    assert list(profiles.leaves) == ["vault", "vault-health", "vault-init"]
    assert list(profiles.requests) == ["services", "kme", "sae"]
    path_lengths = [one.path_length for one in profiles.authorities.values()]
    assert path_lengths == [2, 1]
    assert profiles.leaves["vault"].hosts == ("vault", "localhost", "127.0.0.1")
    assert profiles.leaves["vault"].tls_roles == TlsRole.SERVER
    assert profiles.leaves["vault-init"].tls_roles == TlsRole.CLIENT
    assert profiles.requests["sae"].terms.roles == TlsRole.CLIENT
    assert {one.path_length for one in profiles.requests.values()} == {0}


def test_names_of_authorities_tell_sites_apart() -> None:
    first = load_profiles(PROFILES, "kme-1", "Here").authorities["root"].subject
    second = load_profiles(PROFILES, "kme-2", "There").authorities["root"].subject
    assert (first, second) == ("kme-1 (Here) root CA", "kme-2 (There) root CA")


def test_what_a_site_is_called_is_filled_in_once() -> None:
    subject = load_profiles(PROFILES, "kme-1", "{kme} {x}").authorities["root"].subject
    assert subject == "kme-1 ({kme} {x}) root CA"


def test_names_that_would_be_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"root.*subject.*64 characters: shorten KME_SITE"):
        load(tmp_path, ROOT_CA, kme="k" * 63)


@pytest.mark.parametrize(
    ("text", "old", "new", "says"),
    [
        (ROOT_CA, "ca/root-key.pem", "exchange/root-key.pem", "must lie in ca/"),
        (ROOT_CA, "ca/root-key.pem", "out/vault/root-key.pem", "must lie in ca/"),
        (ROOT_CA, "ca/root-key.pem", "ca/../exchange/key.pem", "FOLDER/NAME"),
        (ROOT_CA, "ca/root.pem", "/etc/root.pem", "FOLDER/NAME"),
        (ROOT_CA, "ca/root.pem", "root.pem", "FOLDER/NAME"),
        (ROOT_CA, "ca/root.pem", "elsewhere/root.pem", "FOLDER/NAME"),
        (ROOT_CA, "ca/root-key.pem", "ca/root.pem", "named twice"),
        (ROOT_CA, "lifetime_days = 10", "lifetime_days = 0", "lifetime_days"),
        (ROOT_CA, "path_length = 1", "path_length = 1\nissuer = 'root'", "authority above it"),
        (ROOT_CA, 'kind = "authority"', 'kind = "else"', "kind"),
        (ROOT_CA, "path_length = 1", "path_length = 1\nhost = 'x'", "host"),
        (ROOT_CA, "[root]", "[root", "not TOML"),
        (ROOT_CA + LEAF, "out/x/client-key.pem", "exchange/client-key.pem", "which is public"),
        (ROOT_CA + LEAF, 'uris = ["service-id:x"]', "", "needs uris or hosts"),
        (ROOT_CA + LEAF, "service-id:x", "service-id:ü", "not ASCII"),
        (ROOT_CA + LEAF, 'roles = ["client"]', "roles = []", "roles"),
        (ROOT_CA + LEAF, 'roles = ["client"]', 'roles = ["any"]', "roles"),
        (ROOT_CA + LEAF, 'issuer = "root"', 'issuer = "leaf"', "authority above it"),
        (ROOT_CA + LEAF, "out/x/client.pem", "ca/root-key.pem", "belongs to a profile above"),
        (ROOT_CA + REQUEST, "path_length = 0", "path_length = 1", "must be below 1"),
        (ROOT_CA + REQUEST, "ca/below.pem", "exchange/below.pem", "must lie in ca/"),
        (REQUEST, "", "", "authority above it"),
    ],
)
def test_a_wrong_profile_is_named(tmp_path: Path, text: str, old: str, new: str, says: str) -> None:
    assert old in text
    with pytest.raises(SettingsError, match=re.escape(says)) as caught:
        load(tmp_path, text.replace(old, new))
    assert str(tmp_path / "profiles.toml") in str(caught.value)


def test_nothing_is_wider_than_its_issuer(tmp_path: Path) -> None:
    narrow = ROOT_CA.replace("path_length = 1", 'path_length = 1\nroles = ["server"]')
    with pytest.raises(SettingsError, match="among those of its issuer: server"):
        load(tmp_path, narrow + LEAF)


def test_an_authority_below_the_root_is_for_something(tmp_path: Path) -> None:
    below = REQUEST.replace('"request"', '"authority"').replace('roles = ["client"]', "")
    below = below.replace("request =", "key =").replace("exchange/below.csr", "ca/below-key.pem")
    with pytest.raises(SettingsError, match="roles must be given"):
        load(tmp_path, ROOT_CA + below)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "none.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=str(path)):
        load_profiles(path, "kme-1", "Lab")
