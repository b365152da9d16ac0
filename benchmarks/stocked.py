"""stocked - two KMEs with key in stock: embedded ones, or the appliances that run."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from rawclient import Target, post

from appliance import Figures
from kme.errors import KmeError
from kme.etsi014.client import open_client
from kme.ids import SaeId
from kme.pair import HOST, Pair
from pair_on_host import ALICE, BOB, PairOnHost
from two_kmes import Site, TwoKmes

QUIET: Final[Mapping[str, Mapping[str, object]]] = {
    "pairing": {"gather_s": 0.1},
    "ingest": {"poll_interval_s": 0.1},
    "log": {"level": "WARNING"},
}


REST_S: Final = 2.0
"""So long the stock stands still before anything is measured: pairing costs time, too."""

SITES_REST_S: Final = 15.0
"""The same of appliances, which count their stock now and then only."""


@dataclass(frozen=True, slots=True)
class Ends:
    """A master SAE that asks for keys, and the slave SAE that draws them."""

    master: Target
    slave: Target
    master_id: str
    slave_id: str

    def enc(self, n_keys: int) -> bytes:
        """Return the request for fresh keys."""
        path = f"/api/v1/keys/{self.slave_id}/enc_keys"
        return post(self.master.name, path, json.dumps({"number": n_keys}).encode())

    def dec(self, key_ids: list[str]) -> bytes:
        """Return the request for known keys."""
        body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        path = f"/api/v1/keys/{self.master_id}/dec_keys"
        return post(self.slave.name, path, json.dumps(body).encode())


def ends_of(pair: Pair) -> Ends:
    """Return Alice at the first KME and Bob at the second."""

    def target(sae: SaeId) -> Target:
        place, files = pair.home_of(sae), pair.pki.sae_certificates[sae]
        return Target(HOST, place.sae_port, HOST, pair.pki.service_ca, files.certificate, files.key)

    return Ends(target(ALICE), target(BOB), str(ALICE), str(BOB))


def ends_of_sites(kmes: TwoKmes) -> Ends:
    """Return the first SAEs of two appliances."""

    def target(site: Site) -> Target:
        files, settings = site.credential(), site.settings
        address, port = settings["KME_BIND"], int(settings["KME_SAE_PORT"])
        return Target(
            address, port, settings["KME_HOST"], site.root_ca, files.certificate, files.key
        )

    master, slave = kmes.sites
    return Ends(target(master), target(slave), str(master.sae), str(slave.sae))


class Still:
    """Tells when a count has stood still for a while."""

    def __init__(self, rest_s: float) -> None:
        self._rest_s, self._seen, self._since_s = rest_s, -1, 0.0

    def is_still(self, count: int) -> bool:
        """Take note of the count now."""
        if count != self._seen:
            self._seen, self._since_s = count, time.monotonic()
        return time.monotonic() - self._since_s > self._rest_s


async def stock_up(pair: PairOnHost, n_keys: int) -> None:
    """Feed both KMEs until the first may allocate so many keys of 256 bits, and pairing rests."""
    place = pair.pair.home_of(ALICE)
    pki = pair.pair.pki
    async with open_client(
        place.sae_url, pki.sae_certificates[ALICE], pki.service_ca, place.id
    ) as client:
        still = Still(REST_S)
        for _ in _until(300.0):
            n_stored = 0
            with contextlib.suppress(KmeError):  # it is still starting
                n_stored = (await client.status(BOB)).stored_key_count
            is_still = still.is_still(n_stored)
            if n_stored < n_keys and not pair.source.is_full():
                for _ in range(8):
                    pair.source.feed()
            if n_stored >= n_keys and is_still:
                return
            await asyncio.sleep(0.05)


def stock_up_sites(kmes: TwoKmes, n_files: int) -> None:
    """Bring two appliances so many final keys of 16 KiB, and wait until pairing rests."""
    master, slave = kmes.sites
    Figures(kmes).ingest(n_files, 16 * 1024)
    still = Still(SITES_REST_S)
    for _ in _until(600.0):
        answer = master.call(f"/{slave.sae}/status", credential=master.credential())
        if still.is_still(int(answer.body["stored_key_count"])):
            return
        time.sleep(0.5)


def _until(seconds: float) -> Iterator[None]:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        yield
    raise TimeoutError("there is not enough key in stock")
