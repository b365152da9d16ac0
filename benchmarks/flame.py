"""Where the time of enc_keys and dec_keys goes: flame graphs of two KMEs under load, as SVG.

::

    make flame

Each shows the KME that is asked, with 8 connections. Samples are of threads that hold the
interpreter; the C parts of TLS and HTTP are counted to the Python line that called them.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from rawclient import Load, Outcome, Target, ask
from stocked import QUIET, Ends, ends_of, ends_of_sites, stock_up, stock_up_sites

from kme.pair import KME_IDS
from pair_on_host import PairOnHost
from two_kmes import Site, TwoKmes

CONNECTIONS: Final = 8
RATE_HZ: Final = 499
SPY: Final = Path(sys.executable).with_name("py-spy")


def record(pid: int, picture: Path, seconds: float, load: Callable[[], Outcome]) -> Outcome:
    """Draw one process while it works."""
    options = ["--rate", str(RATE_HZ), "--duration", str(int(seconds)), "--gil"]
    command = [str(SPY), "record", "--pid", str(pid), "--output", str(picture), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as spy:
        outcome = load()
    if spy.returncode:
        raise SystemExit(f"py-spy ended with {spy.returncode}")
    # It writes its own command line there, with paths of this host.
    title = f"{picture.stem.replace('-', ', ')}: {CONNECTIONS} connections"
    drawn = re.sub(r'(id="title"[^>]*>)[^<]*', rf"\g<1>{title}", picture.read_text())
    picture.write_text(drawn)
    return outcome


def draw(ends: Ends, pids: tuple[int, int], out: Path, label: str, seconds: float) -> None:
    """Draw both KMEs: the one that cuts keys, then the one that gives them out."""

    def run(target: Target, requests: list[bytes]) -> Outcome:
        return ask(target, Load(requests, CONNECTIONS, seconds + 1), keep_bodies=True)

    fresh = [ends.enc(1)]
    record(pids[0], out / f"enc_keys-{label}.svg", seconds, lambda: run(ends.master, fresh))
    # Several seconds' worth of ids, asked for without anyone looking on.
    given = run(ends.master, fresh)
    ids = [[key["key_ID"] for key in json.loads(body)["keys"]] for body in given.bodies]
    known = [ends.dec(some) for some in ids]
    record(pids[1], out / f"dec_keys-{label}.svg", seconds, lambda: run(ends.slave, known))


def worker_of(site: Site) -> int:
    """Return the process of an appliance's first worker, by its number on this host."""
    listed = site.container("rest").top(ps_args="-eo pid,ppid")["Processes"]
    parents = {int(pid): int(parent) for pid, parent in listed}
    return min(pid for pid, parent in parents.items() if parent in parents)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each KME is watched")
    parser.add_argument("--out", type=Path, default=Path("docs/performance"))
    parser.add_argument(
        "--appliance", action="store_true", help="the appliances that `make two-kmes` started"
    )
    parser.add_argument(
        "--files", type=int, default=400, help="final keys of 16 KiB fed to the appliances before"
    )
    arguments = parser.parse_args()
    out, seconds = arguments.out, arguments.seconds
    if arguments.appliance:
        kmes = TwoKmes()
        if arguments.files:
            stock_up_sites(kmes, arguments.files)
        master, slave = kmes.sites
        pids = (worker_of(master), worker_of(slave))
        draw(ends_of_sites(kmes), pids, out, "appliance", seconds)
        return
    with tempfile.TemporaryDirectory(prefix="kme-flame-") as folder:
        pair = PairOnHost(Path(folder), QUIET)
        try:
            for kme in KME_IDS:
                pair.start(kme)
            asyncio.run(stock_up(pair, int(seconds * 20_000)))
            pids = (pair.pid(KME_IDS[0]), pair.pid(KME_IDS[1]))
            draw(ends_of(pair.pair), pids, out, "embedded", seconds)
        finally:
            pair.stop_all()


if __name__ == "__main__":
    main()
