"""pair - two KMEs on one host: their folders, certificates, configuration and description."""

import json
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import tomlkit

from kme.errors import SettingsError
from kme.files import write_whole
from kme.ids import KmeId, SaeId, SourceId
from kme.pki.bundle import CredentialFiles
from kme.pki.site import SitePki, make_pki
from kme.store.records import SourceClass

HOST: Final = "127.0.0.1"
KME_IDS: Final = (KmeId("kme-a"), KmeId("kme-b"))
DEFAULT_SAES: Final = {
    SaeId("alice"): KME_IDS[0],
    SaeId("bob"): KME_IDS[1],
    SaeId("eve"): KME_IDS[1],
}
"""Who lives where, unless told otherwise; `eve` is there to be refused."""

PORTS_NEEDED: Final = 4

_FREE_PORTS: Final = range(16_384, 32_768)
_PLACES_TRIED: Final = 100


@dataclass(frozen=True, slots=True)
class KmePlace:
    """Where one KME of the pair is.

    Parameters
    ----------
    id
        Its name.
    sae_port, peer_port
        Its two TCP ports on the loopback address.
    folder
        Its store, its master key, and the folder where epoch files arrive.
    """

    id: KmeId
    sae_port: int
    peer_port: int
    folder: Path

    @property
    def epochs(self) -> Path:
        """Where its final key files arrive."""
        return self.folder / "epochs"

    @property
    def config(self) -> Path:
        """Its configuration file, for `kme run`."""
        return self.folder.parent / f"{self.id}.toml"

    @property
    def log(self) -> Path:
        """Where its process writes its log."""
        return self.folder.parent / f"{self.id}.log"

    @property
    def sae_url(self) -> str:
        """Base address for SAEs."""
        return f"https://{HOST}:{self.sae_port}"

    @property
    def peer_url(self) -> str:
        """Base address for the other KME."""
        return f"https://{HOST}:{self.peer_port}"


@dataclass(frozen=True, slots=True)
class PairPlan:
    """What a pair on this host is to be.

    Parameters
    ----------
    directory
        Folder that holds everything.
    ports
        Four TCP ports: SAE and peer port of the first KME, then of the second.
    saes
        The SAEs and their homes.
    source
        Name of the source that feeds both.
    source_class
        Whether it makes quantum key.
    settings
        More settings for both KMEs, by section, as in the configuration file.
    """

    directory: Path
    ports: Sequence[int]
    saes: Mapping[SaeId, KmeId]
    source: SourceId
    source_class: SourceClass
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two KMEs on this host, laid out and ready to be started."""

    directory: Path
    kmes: tuple[KmePlace, KmePlace]
    saes: Mapping[SaeId, KmeId]
    pki: SitePki

    @property
    def description(self) -> Path:
        """The file that tells programs where everything is."""
        return self.directory / "pair.json"

    def home_of(self, sae: SaeId) -> KmePlace:
        """Return the place of the KME where an SAE lives."""
        return next(place for place in self.kmes if place.id == self.saes[sae])

    def describe(self, pids: Mapping[KmeId, int]) -> None:
        """Write `pair.json`: addresses, certificates and the processes that run now."""
        kmes = [
            {
                "id": place.id,
                "sae_url": place.sae_url,
                "peer_url": place.peer_url,
                "ca": str(self.pki.root_ca),
                "config": str(place.config),
                "pid": pids.get(place.id),
            }
            for place in self.kmes
        ]
        saes = [
            {
                "id": sae,
                "kme": kme,
                "cert": str(self.pki.sae_certificates[sae].certificate),
                "key": str(self.pki.sae_certificates[sae].key),
            }
            for sae, kme in self.saes.items()
        ]
        text = json.dumps({"kmes": kmes, "saes": saes}, indent=2)
        write_whole(self.description, f"{text}\n".encode())


def free_ports(count: int) -> list[int]:
    """Return TCP ports in a row that nobody listens on just now.

    They lie below the range from which systems give ports to outgoing
    connections, so that none of those takes one before it is bound.

    Raises
    ------
    SettingsError
        If none were found in a hundred places.
    """
    for _ in range(_PLACES_TRIED):
        base = _FREE_PORTS.start + secrets.randbelow(len(_FREE_PORTS) - count)
        ports = list(range(base, base + count))
        if all(_is_free(port) for port in ports):
            return ports
    raise SettingsError(f"no {count} free TCP ports in a row were found on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def ports_from(base_port: int) -> list[int]:
    """Return the pair's ports, one after another from `base_port`.

    Raises
    ------
    SettingsError
        If they run past the last TCP port.
    """
    last = 65535
    if not 1 <= base_port <= last - PORTS_NEEDED + 1:
        raise SettingsError(f"--base-port {base_port}: must be in 1..{last - PORTS_NEEDED + 1}")
    return list(range(base_port, base_port + PORTS_NEEDED))


def lay_out(plan: PairPlan) -> Pair:
    """Make what is missing of a pair's folders, certificates and configuration.

    What is there already stays: certificates that are valid, stores, keys.

    Raises
    ------
    SettingsError
        If the folder cannot be made.
    """
    # Programs that read pair.json may run in another folder.
    plan = replace(plan, directory=plan.directory.absolute())
    places = tuple(
        KmePlace(kme, plan.ports[2 * i], plan.ports[2 * i + 1], plan.directory / kme)
        for i, kme in enumerate(KME_IDS)
    )
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        for place in places:
            place.folder.mkdir(mode=0o700, exist_ok=True)
            place.epochs.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{error.filename}: cannot be made: {error.strerror}") from error
    pki = make_pki(plan.directory / "certs", KME_IDS, plan.saes, [HOST, "localhost"])
    pair = Pair(plan.directory, (places[0], places[1]), plan.saes, pki)
    for place, peer in (places, places[::-1]):
        write_whole(place.config, _configuration(plan, pki, place, peer).encode())
    pair.describe({})
    return pair


def _configuration(plan: PairPlan, pki: SitePki, place: KmePlace, peer: KmePlace) -> str:
    """Return the configuration file of one KME, its paths relative to that file."""

    def within(path: Path) -> str:
        return str(path.relative_to(plan.directory))

    def listener(
        port: int, own: CredentialFiles, trusted: Path, revoked: Path
    ) -> dict[str, object]:
        return {
            "host": HOST,
            "port": port,
            "certificate": within(own.certificate),
            "key": within(own.key),
            "client_ca": within(trusted),
            "client_crl": within(revoked),
        }

    services, members = pki.service_certificates, pki.kme_certificates
    source = {
        "id": str(plan.source),
        "directory": within(place.epochs),
        "class": str(plan.source_class),
    }
    document = tomlkit.document()
    document.add(tomlkit.comment(f"{place.id}: started by `kme run --config` with this file."))
    document.update(
        {
            "id": str(place.id),
            "store": {
                "path": within(place.folder / "store.db"),
                "master_key": within(place.folder / "master.key"),
            },
            "sae_interface": listener(place.sae_port, services[place.id], pki.sae_ca, pki.sae_crl),
            "peer_interface": listener(place.peer_port, members[place.id], pki.kme_ca, pki.kme_crl),
            **{name: dict(section) for name, section in plan.settings.items()},
            "peers": [{"id": str(peer.id), "url": peer.peer_url, "sources": [source]}],
            "saes": [{"id": str(sae), "kme": str(kme)} for sae, kme in plan.saes.items()],
        }
    )
    return tomlkit.dumps(document)
