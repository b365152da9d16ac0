"""No key, share, token or private key where it does not belong: logs, images, other containers."""

import base64
import io
import json
import re
import tarfile
from collections.abc import Iterator

import pytest

from two_kmes import Site, TwoKmes

SERVICES = ("vault", "unsealer", "watcher", "rest", "traefik")
PRIVATE = {
    "ca-private": set[str](),
    "unsealer-tls": {"unsealer"},
    "watcher-tls": {"watcher"},
    "rest-tls": {"rest"},
    "traefik-tls": {"traefik"},
    "operator-tls": set[str](),
    "offline-shares": set[str](),
    "vault-data": {"vault"},
    "vault-init-tls": set[str](),
    "vault-init-state": set[str](),
}
_KEY_BLOCK = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END")


def _files(kmes: TwoKmes, volume: str) -> Iterator[tuple[str, bytes]]:
    """Read a volume from outside, as the host's root can."""
    container = kmes.docker.containers.create("kme/volumes:dev", volumes=[f"{volume}:/volume:ro"])
    try:
        chunks, _ = container.get_archive("/volume")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            for member in archive.getmembers():
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream.read()
    finally:
        container.remove()


def _forms(secret: bytes) -> set[bytes]:
    """Return the ways in which bytes may stand in a text."""
    base = base64.b64encode(secret)
    return {
        secret,
        secret.hex().encode(),
        base,
        base.rstrip(b"="),
        base64.urlsafe_b64encode(secret),
    }


def _secrets_of(kmes: TwoKmes, site: Site) -> dict[str, set[bytes]]:
    """Return everything secret of a site that can be named: shares and private keys."""
    project = site.settings["KME_PROJECT"]
    found: dict[str, set[bytes]] = {}
    for volume in ("ca-private", "unsealer-tls", "watcher-tls", "rest-tls", "traefik-tls",
                   "operator-tls", "sae", "vault-init-tls"):  # fmt: skip
        for name, content in _files(kmes, f"{project}_{volume}"):
            for number, match in enumerate(_KEY_BLOCK.finditer(content)):
                # A line from the middle, where the private number stands.
                found[f"{volume}{name}#{number}"] = {match.group(1).split()[1]}
            if "shares" in name:
                shares = re.findall(r"[A-Za-z0-9+/]{43,44}=?|[0-9a-f]{64,66}", content.decode())
                assert shares, "the unsealer has shares"
                for number, share in enumerate(shares):
                    found[f"share {number}"] = {share.encode()}
    return found


@pytest.fixture(scope="module")
def secrets(started: TwoKmes) -> dict[str, set[bytes]]:
    found = {}
    for site in started.sites:
        for name, forms in _secrets_of(started, site).items():
            found[f"{site.name} {name}"] = forms
    given = started.first.enc_keys(started.second, 20)
    for key_id, key in given.keys.items():
        found[f"key {key_id}"] = _forms(key)
    drawn = started.second.dec_keys(started.first, *list(given.keys)[:10])
    assert drawn.status == 200
    return found


def _assert_none_in(text: bytes, secrets: dict[str, set[bytes]], place: str) -> None:
    for name, forms in secrets.items():
        assert not any(form in text for form in forms), f"{name} stands in {place}"


def test_there_is_something_to_look_for(secrets: dict[str, set[bytes]]) -> None:
    assert sum("share" in name for name in secrets) >= 6
    assert sum("-tls" in name for name in secrets) >= 12
    assert sum(name.startswith("key ") for name in secrets) == 20


def test_no_log_of_any_container_holds_a_secret(
    started: TwoKmes, secrets: dict[str, set[bytes]]
) -> None:
    for container in started.docker.containers.list(all=True):
        text = container.logs()
        _assert_none_in(text, secrets, f"the log of {container.name}")
        assert b"hvs." not in text, "a token of Vault's"
        assert b"PRIVATE KEY" not in text


def test_no_description_of_a_container_holds_a_secret(
    started: TwoKmes, secrets: dict[str, set[bytes]]
) -> None:
    for container in started.docker.containers.list(all=True):
        text = json.dumps(container.attrs).encode()
        _assert_none_in(text, secrets, f"docker inspect {container.name}")


def test_no_image_holds_a_secret(started: TwoKmes, secrets: dict[str, set[bytes]]) -> None:
    """Look into the topmost layers, those above what all services share."""
    for image in started.docker.images.list():
        names = [tag for tag in image.tags if tag.startswith("kme/")]
        if not names or "qkd" in names[0] or "runtime" in names[0]:
            continue
        for chunk in _layers(image.save()):
            _assert_none_in(chunk, secrets, names[0])
            assert not _KEY_BLOCK.search(chunk), f"{names[0]} holds a private key"


def _layers(chunks: Iterator[bytes]) -> Iterator[bytes]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in archive.getmembers():
            if member.name.endswith("layer.tar") and member.size < 20_000_000:
                stream = archive.extractfile(member)
                if stream is not None:
                    yield stream.read()


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_mounts_only_what_is_meant_for_it(started: TwoKmes, service: str) -> None:
    for site in started.sites:
        prefix = site.settings["KME_PROJECT"] + "_"
        mounted = {
            mount["Name"].removeprefix(prefix)
            for mount in site.container(service).attrs["Mounts"]
            if mount["Type"] == "volume"
        }
        for volume, entitled in PRIVATE.items():
            assert (volume in mounted) == (service in entitled)


def test_the_audit_log_names_no_secret(started: TwoKmes, secrets: dict[str, set[bytes]]) -> None:
    for site in started.sites:
        logs = list(_files(started, f"{site.settings['KME_PROJECT']}_vault-audit"))
        assert logs
        for name, content in logs:
            _assert_none_in(content, secrets, f"Vault's audit log {name}")
