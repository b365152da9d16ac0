"""Keys per second of two KMEs on this host: embedded ones, or the appliances that run.

::

    make bench-supply

Both KMEs, their stores and the client share the machine. Beside each figure stands its ratio to a
yardstick of the same run, a request that is answered 404 before anything is looked at: it costs
TLS, HTTP and the event loop, and nothing else.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from rawclient import Load, Outcome, Target, ask, get
from stocked import QUIET, Ends, ends_of, ends_of_sites, stock_up, stock_up_sites

from kme.pair import KME_IDS
from pair_on_host import PairOnHost
from two_kmes import TwoKmes


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
    """Measure the two appliances that `make two-kmes` started."""
    kmes = TwoKmes()
    if arguments.files:
        stock_up_sites(kmes, arguments.files)
    figures = SupplyFigures(ends_of_sites(kmes), arguments.seconds)
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
    parser.add_argument(
        "--files", type=int, default=600, help="final keys of 16 KiB fed to the appliances before"
    )
    arguments = parser.parse_args()
    (appliance if arguments.appliance else embedded)(arguments)


if __name__ == "__main__":
    main()
