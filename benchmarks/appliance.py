"""Figures of two running appliances: idle processor time, ingest, image sizes.

::

    make two-kmes && make bench

Their keys per second: `make bench-supply ARGS=--appliance`.
"""

import argparse
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from kme.epochs.finalkey import FinalKeyFile
from kme.files import write_whole
from kme.ids import Epoch
from kme.secret import Secret
from two_kmes import Site, TwoKmes

SERVICES = ("vault", "unsealer", "watcher", "rest", "traefik")


class Figures:
    """The benchmark of one pair."""

    def __init__(self, kmes: TwoKmes) -> None:
        self.kmes = kmes

    def idle(self) -> None:
        time.sleep(5.0)
        before = {name: self._cpu_s(name) for name in SERVICES}
        time.sleep(30.0)
        used = {name: (self._cpu_s(name) - before[name]) / 30.0 for name in SERVICES}
        for name, share in used.items():
            print(f"idle {name:<10} {100 * share:6.2f} % of one core")
        print(f"idle in all      {100 * sum(used.values()):6.2f} % of one core")

    def _cpu_s(self, service: str) -> float:
        stats = self.kmes.sites[0].container(service).stats(stream=False)
        return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def ingest(self, n_files: int, n_bytes: int) -> None:
        """Bring both KMEs the same fresh keys, one after the other.

        The first has nothing else to do meanwhile; while the second takes them in, both pair
        them. Counted is from the first tenth of the files to the last.
        """
        first = Epoch.at_time(time.time()).number + 1000 + secrets.randbelow(30_000)
        finals = [
            FinalKeyFile(Epoch(first + n), 1, 8 * n_bytes, Secret(secrets.token_bytes(n_bytes)))
            for n in range(n_files)
        ]
        for site, peer in (self.kmes.sites, self.kmes.sites[::-1]):
            folder = site.folder / "epochs" / "in" / peer.name / "qkd-1"
            for final in finals:
                write_whole(folder / final.start_epoch.file_name, final.pack(), mode=0o660)
            print(f"ingest at {site.name}, {n_bytes} bytes: {self._taken_in(site, folder):6.0f}/s")

    @staticmethod
    def _taken_in(site: Site, folder: Path) -> float:
        """Have a folder's files taken in; return how many a second."""
        counts: list[tuple[float, int]] = []
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(site.make, "notify")
            while not counts or (counts[-1][1] and not done.done()):
                counts.append((time.perf_counter(), sum(1 for _ in folder.glob("*"))))
                time.sleep(0.05)
            assert done.result().returncode == 0, done.result().stderr
        total = counts[0][1]
        begun = next(count for count in counts if count[1] <= 0.9 * total)
        return begun[1] / max(counts[-1][0] - begun[0], 1e-9)

    def images(self) -> None:
        for image in sorted(self.kmes.docker.images.list(), key=lambda image: str(image.tags)):
            for tag in image.tags:
                if tag.startswith("kme/") and tag.endswith(":dev"):
                    print(f"image {tag:<20} {image.attrs['Size'] / 1e6:6.0f} MB")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=1000, help="how many final keys are taken in")
    arguments = parser.parse_args()
    figures = Figures(TwoKmes())
    figures.images()
    figures.idle()
    figures.ingest(arguments.files, 1024)


if __name__ == "__main__":
    main()
