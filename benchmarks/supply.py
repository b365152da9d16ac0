"""Keys per second of two KMEs on this host: embedded ones, or the appliances that run.

::

    make bench-supply

Both KMEs, their stores and the client share the machine. Beside each figure stands its ratio to a
yardstick of the same run, a request that is answered 404 before anything is looked at: it costs
TLS, HTTP and the event loop, and nothing else.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from rawclient import Load, Outcome, Target, ask, get, post

from kme.errors import KmeError
from kme.etsi014.client import open_client
from kme.ids import SaeId
from kme.pair import HOST, KME_IDS, Pair
from pair_on_host import ALICE, BOB, PairOnHost

QUIET: Final[Mapping[str, Mapping[str, object]]] = {
    "pairing": {"gather_s": 0.1},
    "ingest": {"poll_interval_s": 0.1},
    "log": {"level": "WARNING"},
}


REST_S: Final = 2.0
"""So long the stock stands still before anything is measured: pairing costs time, too."""


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


class SupplyFigures:
    """The table of one pair."""

    def __init__(self, ends: Ends, seconds: float) -> None:
        self.ends, self.seconds = ends, seconds
        self._yardsticks: dict[tuple[int, int], float] = {}

    def rows(self, n_connections: int, n_keys: int) -> None:
        """Measure enc_keys, then dec_keys of just these keys."""
        ends = self.ends
        given = self._run("enc_keys", ends.master, [ends.enc(n_keys)], n_connections, n_keys)
        ids = [[key["key_ID"] for key in json.loads(body)["keys"]] for body in given.bodies]
        requests = [ends.dec(some) for some in ids]
        if len(requests) > 1:
            self._run("dec_keys", ends.slave, requests, n_connections, n_keys)

    def _run(
        self, name: str, target: Target, requests: list[bytes], n_connections: int, n_keys: int
    ) -> Outcome:
        yardstick = self._yardstick(target, n_connections)
        load = Load(requests, n_connections, self.seconds)
        outcome = ask(target, load, keep_bodies=name == "enc_keys")
        others = {status: n for status, n in outcome.n_answers.items() if status != 200}
        print(
            f"| {name} | {n_connections} | {n_keys} | {outcome.per_s:.0f} |"
            f" {n_keys * outcome.per_s:.0f} | {outcome.median_ms():.2f} |"
            f" {outcome.quantile_ms(0.99):.2f} | {outcome.per_s / yardstick:.2f} |"
            f" {100 * outcome.cpu_s / outcome.lasted_s:.0f} % | {others or ''} |",
            flush=True,
        )
        return outcome

    def _yardstick(self, target: Target, n_connections: int) -> float:
        known = self._yardsticks.get((target.port, n_connections))
        if known is None:
            request = get(target.name, "/nowhere")
            known = ask(target, Load([request], n_connections, self.seconds / 2)).per_s
            self._yardsticks[target.port, n_connections] = known
            print(f"| yardstick | {n_connections} | | {known:.0f} | | | | 1 | | |", flush=True)
        return known


def print_head() -> None:
    """Print the head of the table."""
    columns = ("connections", "keys each", "requests/s", "keys/s", "p50 ms", "p99 ms", "ratio")
    print(f"| | {' | '.join(columns)} | client | other |")
    print("|---" * (3 + len(columns)) + "|")


async def stock_up(pair: PairOnHost, n_keys: int) -> None:
    """Feed both KMEs until the first may allocate so many keys of 256 bits, and pairing rests."""
    place = pair.pair.home_of(ALICE)
    pki = pair.pair.pki
    async with open_client(
        place.sae_url, pki.sae_certificates[ALICE], pki.service_ca, place.id
    ) as client:
        n_before, still_since_s = -1, time.monotonic()
        for _ in _until(300.0):
            n_stored = 0
            with contextlib.suppress(KmeError):  # it is still starting
                n_stored = (await client.status(BOB)).stored_key_count
            if n_stored != n_before:
                n_before, still_since_s = n_stored, time.monotonic()
            if n_stored < n_keys and not pair.source.is_full():
                for _ in range(8):
                    pair.source.feed()
            if n_stored >= n_keys and time.monotonic() - still_since_s > REST_S:
                return
            await asyncio.sleep(0.05)


def _until(seconds: float) -> Iterator[None]:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        yield
    raise TimeoutError("there is not enough key in stock")


def embedded(arguments: argparse.Namespace) -> None:
    """Measure two embedded KMEs."""
    with tempfile.TemporaryDirectory(prefix="kme-bench-") as folder:
        pair = PairOnHost(Path(folder), QUIET)
        try:
            for kme in KME_IDS:
                pair.start(kme)
            figures = SupplyFigures(ends_of(pair.pair), arguments.seconds)
            print_head()
            for n_connections, n_keys in arguments.runs:
                asyncio.run(stock_up(pair, int(arguments.seconds * n_keys * 8000 / n_keys**0.6)))
                figures.rows(n_connections, n_keys)
        finally:
            pair.stop_all()


def appliance(arguments: argparse.Namespace) -> None:
    """Measure the two appliances that `make two-kmes` started; there must be key in stock."""
    from two_kmes import Site, TwoKmes  # noqa: PLC0415 - needs Docker

    kmes = TwoKmes()

    def target(site: Site) -> Target:
        files = site.credential()
        return Target(
            site.settings["KME_BIND"],
            int(site.settings["KME_SAE_PORT"]),
            site.settings["KME_HOST"],
            site.root_ca,
            files.certificate,
            files.key,
        )

    master, slave = kmes.sites
    figures = SupplyFigures(
        Ends(target(master), target(slave), str(master.sae), str(slave.sae)), arguments.seconds
    )
    print_head()
    for n_connections, n_keys in arguments.runs:
        figures.rows(n_connections, n_keys)


def _runs(text: str) -> list[tuple[int, int]]:
    return [(int(one.split("x")[0]), int(one.split("x")[1])) for one in text.split(",")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each rate is measured")
    parser.add_argument(
        "--runs", type=_runs, default="1x1,8x1,32x1,8x100", help="connections x keys per request"
    )
    parser.add_argument(
        "--appliance", action="store_true", help="the appliances that `make two-kmes` started"
    )
    arguments = parser.parse_args()
    (appliance if arguments.appliance else embedded)(arguments)


if __name__ == "__main__":
    main()
