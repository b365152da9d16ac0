"""kme.settings: everything is checked before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import tomlkit

from kme.errors import SettingsError
from kme.log import LogFormat
from kme.settings import load_settings
from kme.store.records import SourceClass

COMPLETE = """
id = "kme-a"
store = { path = "store.db", master_key = "master.key" }
[sae_interface]
port = 8443
certificate = "sae.pem"
key = "sae.key"
client_ca = "/etc/kme/saes.pem"
[peer_interface]
host = "0.0.0.0"
port = 9443
certificate = "peer.pem"
key = "peer.key"
client_ca = "kmes.pem"
client_crl = "kmes.crl"
[[peers]]
id = "kme-b"
url = "https://kme-b.example:9443"
sources = [{ id = "fibre-1", directory = "epochs", class = "random" }]
[[saes]]
id = "alice"
kme = "kme-a"
[[saes]]
id = "bob"
kme = "kme-b"
[log]
format = "json"
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kme.toml"
    path.write_text(text)
    return path


def _changed(tmp_path: Path, place: str, value: object) -> Path:
    document = tomlkit.parse(COMPLETE).unwrap()
    *steps, last = place.split(".")
    table: Any = document
    for step in steps:
        table = table[int(step) if step.isdigit() else step]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return _file(tmp_path, tomlkit.dumps(document))


def test_a_complete_file_is_read_and_its_paths_start_at_its_folder(tmp_path: Path) -> None:
    settings = load_settings(_file(tmp_path, COMPLETE))
    assert settings.store.path == tmp_path / "store.db"
    assert settings.sae_interface.client_ca == Path("/etc/kme/saes.pem")
    assert settings.peer_interface.client_crl == tmp_path / "kmes.crl"
    [peer] = settings.peers
    assert peer.sources[0].directory == tmp_path / "epochs"
    assert peer.sources[0].source_class is SourceClass.RANDOM
    assert settings.log.format is LogFormat.JSON
    assert settings.offer.key_size_bits == 256


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KME_LOG__LEVEL", "DEBUG")
    monkeypatch.setenv("KME_OFFER__KEY_SIZE_BITS", "512")
    settings = load_settings(_file(tmp_path, COMPLETE))
    assert settings.log.level == "DEBUG"
    assert settings.offer.key_size_bits == 512


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("id", None, "id: Field required"),
        ("id", "kme a", "id: Value error, 'kme a' is not a KME id"),
        ("colour", "red", "colour: Extra inputs"),
        ("store.path", None, "store.path: Field required"),
        ("sae_interface.port", 0, "sae_interface.port: Input should be greater"),
        ("sae_interface.port", "https", "sae_interface.port: Input should be a valid integer"),
        ("peers.0.url", "http://kme-b", "peers.0.url: String should match"),
        ("peers.0.url", "https://kme-b/path", "peers.0.url: String should match"),
        ("peers.0.sources", [], "peers.0.sources: List should have at least 1"),
        ("peers.0.sources.0.id", "A", "is not a source id"),
        ("peers.0.id", "kme-a", "stands there twice, or is this KME's own"),
        ("saes.1.id", "alice", "'alice' stands there twice"),
        ("saes.1.kme", "kme-c", "'bob' lives at 'kme-c', which is no KME named here"),
        ("log.level", "LOUD", "log.level: String should match"),
        ("offer", {"key_size_bits": 12}, "offer.key_size_bits: Input should be a multiple of 8"),
        ("offer", {"min_key_size_bits": 512}, "min_key_size_bits <= key_size_bits"),
        ("pairing", {"lease_s": 0.5}, "lease_s must be longer than heartbeat_interval_s"),
        (
            "peers.0.sources",
            [{"id": "a", "directory": "x"}, {"id": "a", "directory": "y"}],
            "two sources of one id",
        ),
        (
            "peers.0.sources",
            [{"id": "a", "directory": "x"}, {"id": "b", "directory": "x"}],
            "two sources share a directory",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(
    tmp_path: Path, place: str, value: object, words: str
) -> None:
    path = _changed(tmp_path, place, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"store: Field required; .*peers: Field required"):
        load_settings(_file(tmp_path, 'id = "kme-a"\n'))


def test_a_file_that_is_not_there_or_not_toml_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "missing.toml")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(_file(tmp_path, "id = \n"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(tmp_path / "binary.toml")
