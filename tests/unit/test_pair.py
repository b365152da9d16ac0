"""kme.pair: two KMEs laid out in a folder, described for programs, laid out again."""

import json
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kme.errors import KmeError, SettingsError
from kme.ids import SaeId, SourceId
from kme.pair import (
    DEFAULT_SAES,
    HOST,
    KME_IDS,
    Pair,
    PairPlan,
    free_ports,
    lay_out,
    ports_from,
)
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import server_context
from kme.settings import load_settings
from kme.store.records import SourceClass

PORTS = [14014, 14015, 14016, 14017]
ALICE, BOB, EVE = DEFAULT_SAES


def plan_in(directory: Path) -> PairPlan:
    return PairPlan(
        directory,
        PORTS,
        DEFAULT_SAES,
        SourceId("sim"),
        SourceClass.QKD,
        {"log": {"level": "DEBUG"}, "pairing": {"gather_s": 0.5}},
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return lay_out(plan_in(tmp_path_factory.mktemp("a pair") / 'it\'s "här" \\ # = [x]'))


def described(pair: Pair) -> Mapping[str, list[dict[str, Any]]]:
    fields: dict[str, list[dict[str, Any]]] = json.loads(pair.description.read_text())
    return fields


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_description_has_what_programs_need(pair: Pair) -> None:
    pair.describe({KME_IDS[1]: 4711})
    fields = described(pair)
    assert [(kme["id"], kme["sae_url"], kme["peer_url"]) for kme in fields["kmes"]] == [
        ("kme-a", "https://127.0.0.1:14014", "https://127.0.0.1:14015"),
        ("kme-b", "https://127.0.0.1:14016", "https://127.0.0.1:14017"),
    ]
    assert [kme["pid"] for kme in fields["kmes"]] == [None, 4711]
    assert [(sae["id"], sae["kme"]) for sae in fields["saes"]] == [
        ("alice", "kme-a"),
        ("bob", "kme-b"),
        ("eve", "kme-b"),
    ]
    paths = [Path(kme[name]) for kme in fields["kmes"] for name in ("ca", "config")]
    paths += [Path(sae[name]) for sae in fields["saes"] for name in ("cert", "key")]
    assert all(path.is_absolute() and path.is_file() for path in paths)


def test_what_is_described_suffices_for_a_tls_client_of_any_make(pair: Pair) -> None:
    fields = described(pair)
    sae, kme = fields["saes"][0], fields["kmes"][0]
    client = ssl.create_default_context(cafile=kme["ca"])
    client.load_cert_chain(sae["cert"], sae["key"])
    interface = load_settings(Path(kme["config"])).sae_interface
    server = server_context(
        CredentialFiles(interface.certificate, interface.key),
        interface.client_ca,
        interface.client_crl,
    )
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=HOST),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    subject = ends[1].getpeercert()
    assert subject is not None
    assert ("URI", "sae-id:alice") in subject["subjectAltName"]


def test_the_configurations_load_and_mirror_each_other(pair: Pair) -> None:
    one, other = (load_settings(place.config) for place in pair.kmes)
    for settings, place, peer in ((one, pair.kmes[0], other), (other, pair.kmes[1], one)):
        assert settings.id == place.id
        assert (settings.sae_interface.port, settings.peer_interface.port) == (
            place.sae_port,
            place.peer_port,
        )
        [known] = settings.peers
        assert known.id == peer.id
        assert known.url == f"https://{HOST}:{peer.peer_interface.port}"
        [source] = known.sources
        assert (source.id, source.source_class) == ("sim", SourceClass.QKD)
        assert source.directory == place.epochs
        assert source.directory.is_dir()
        assert settings.store.path.parent == place.folder
        assert {sae.id: sae.kme for sae in settings.saes} == DEFAULT_SAES
        assert (settings.log.level, settings.pairing.gather_s) == ("DEBUG", 0.5)
        for interface in (settings.sae_interface, settings.peer_interface):
            assert interface.certificate.is_file()
            assert interface.key.is_file()
            assert interface.client_ca.is_file()
            assert interface.client_crl is not None
            assert interface.client_crl.is_file()
    assert one.sae_interface.client_ca != one.peer_interface.client_ca


def test_key_and_stores_are_for_their_owner_alone(pair: Pair) -> None:
    for place in pair.kmes:
        for folder in (place.folder, place.epochs):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for sae in described(pair)["saes"]:
        assert stat.S_IMODE(Path(sae["key"]).stat().st_mode) == 0o600


def test_laying_out_again_keeps_certificates_and_whatever_lies_there(tmp_path: Path) -> None:
    directory = tmp_path / "pair"
    first = lay_out(plan_in(directory))
    certificates = contents(directory / "certs")
    assert len(certificates) > 10
    kept = first.kmes[0].epochs / "c74e4f86"
    kept.write_bytes(b"not taken in yet")
    ports = [15014, 15015, 15016, 15017]
    saes = {**DEFAULT_SAES, SaeId("dora"): KME_IDS[0]}
    again = lay_out(replace(plan_in(directory), ports=ports, saes=saes))
    now = contents(directory / "certs")
    assert {path: now[path] for path in certificates} == certificates
    assert kept.read_bytes() == b"not taken in yet"
    settings = load_settings(again.kmes[1].config)
    assert settings.sae_interface.port == 15016
    assert settings.peers[0].url == "https://127.0.0.1:15015"
    assert "dora" in {sae.id for sae in settings.saes}
    assert described(again)["saes"][3]["id"] == "dora"


def test_a_relative_folder_is_described_by_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = described(lay_out(plan_in(Path("pair"))))
    monkeypatch.chdir("/")
    assert all(Path(sae["cert"]).is_file() for sae in fields["saes"])
    assert load_settings(Path(fields["kmes"][0]["config"])).id == "kme-a"


def test_every_sae_has_its_home(pair: Pair) -> None:
    assert [pair.home_of(sae).id for sae in (ALICE, BOB, EVE)] == ["kme-a", "kme-b", "kme-b"]


@pytest.mark.parametrize("base_port", [-1, 0, 65533, 65535, 70000])
def test_ports_out_of_range_are_refused(base_port: int) -> None:
    with pytest.raises(SettingsError, match=rf"^--base-port {base_port}: must be in 1\.\.65532$"):
        ports_from(base_port)


def test_ports_follow_each_other_up_to_the_last_one() -> None:
    assert ports_from(1) == [1, 2, 3, 4]
    assert ports_from(65532) == [65532, 65533, 65534, 65535]


def test_free_ports_are_different_and_can_be_listened_on() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    for port in ports:
        with socket.socket() as listener:
            listener.bind((HOST, port))


@pytest.mark.parametrize("blocked", ["", "kme-b", "kme-a/epochs", "certs", "certs/sae"])
def test_a_file_in_the_way_is_said_in_one_line(tmp_path: Path, blocked: str) -> None:
    directory = tmp_path / "pair"
    way = directory / blocked
    way.parent.mkdir(parents=True, exist_ok=True)
    way.write_text("in the way")
    with pytest.raises(KmeError) as refused:
        lay_out(plan_in(directory))
    assert str(way) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert way.read_text() == "in the way"


@pytest.mark.parametrize("folder", ["/proc/pair", "/dev/null/pair"])
def test_an_unwritable_folder_is_refused(folder: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{folder}: cannot be made: "):
        lay_out(plan_in(Path(folder)))


@pytest.mark.parametrize("name", ["kme-a.toml", "pair.json"])
def test_a_configuration_that_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(KmeError, match=rf"{name}: cannot be written: Is a directory"):
        lay_out(plan_in(tmp_path))
