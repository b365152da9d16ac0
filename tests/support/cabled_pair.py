"""cabled_pair - two real KMEs in two network namespaces, and the cable between them fails."""

from pathlib import Path

import tomlkit

from cable import Cable
from faulty_pair import FaultyPair
from kme.pair import DEFAULT_SAES, HOST, KME_IDS, KmePlace
from kme.pki.site import make_pki


class CabledPair(FaultyPair):
    """A pair of which the second KME lives behind a cable.

    Parameters
    ----------
    directory
        Its folder.
    seed
        Of everything that is left to chance.
    cable
        The way to it.
    """

    link: Cable

    def __init__(self, directory: Path, seed: int, cable: Cable) -> None:
        super().__init__(directory, seed, cable)
        hosts = [HOST, "localhost", cable.saes.far, cable.peers.near, cable.peers.far]
        make_pki(directory.absolute() / "certs", KME_IDS, DEFAULT_SAES, hosts)
        self.processes.namespaces[KME_IDS[1]] = cable.namespace

    def _detour(self) -> None:
        """Move the second KME behind the cable."""
        near, far = self.kmes.values()
        ends = self.link.peers
        for place, own, peer_url in (
            (near, ends.near, far.peer_url.replace(HOST, ends.far)),
            (far, ends.far, near.peer_url.replace(HOST, ends.near)),
        ):
            document = tomlkit.parse(place.config.read_text()).unwrap()
            document["peer_interface"]["host"] = own
            document["sae_interface"]["host"] = self._sae_host(place)
            document["peers"][0]["url"] = peer_url
            place.config.write_text(tomlkit.dumps(document))

    def _sae_host(self, place: KmePlace) -> str:
        return self.link.saes.far if place.id == KME_IDS[1] else HOST

    def _sae_url(self, place: KmePlace) -> str:
        return place.sae_url.replace(HOST, self._sae_host(place))
