"""Figures of two running appliances: keys per second, ingest, idle processor time, image sizes.

::

    make two-kmes && make bench

Every figure is printed with the ratio to a yardstick of the same run where the machine's speed
matters: TLS requests that reach Traefik and go no further (404) on as many connections.
"""

import argparse
import http.client
import json
import secrets
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from kme.epochs.finalkey import FinalKeyFile
from kme.files import write_whole
from kme.ids import Epoch
from kme.secret import Secret
from two_kmes import Site, TwoKmes

SERVICES = ("vault", "unsealer", "watcher", "rest", "traefik")


class Connection:
    """One kept-alive TLS connection of an SAE to its KME."""

    def __init__(self, site: Site) -> None:
        settings = site.settings
        context = ssl.create_default_context(cafile=site.root_ca)
        credential = site.credential()
        context.load_cert_chain(credential.certificate, credential.key)
        self._host = settings["KME_HOST"]
        self._http = _Pinned(
            settings["KME_BIND"], int(settings["KME_SAE_PORT"]), self._host, context
        )

    def call(self, path: str, body: object = None) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        self._http.request(
            "GET" if data is None else "POST",
            path,
            data,
            {"Host": self._host, "Content-Type": "application/json"},
        )
        answer = self._http.getresponse()
        return answer.status, answer.read()


class _Pinned(http.client.HTTPSConnection):
    """Connects to an address and asks for a name."""

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext) -> None:
        super().__init__(address, port, context=context, timeout=30)
        self._name, self._tls = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


@dataclass(frozen=True)
class Rate:
    """How often something was done, and how long it took."""

    per_s: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.per_s:8.0f}/s   p50 {self.p50_ms:6.1f} ms   p99 {self.p99_ms:6.1f} ms"


def measure(
    site: Site, n_connections: int, step: Callable[[Connection], int], seconds: float
) -> Rate:
    """Let connections work at once; `step` returns how many it did, 0 when there is no more."""
    took: list[float] = []
    counts = [0] * n_connections
    begin = threading.Barrier(n_connections + 1)
    stop = threading.Event()

    def work(number: int) -> None:
        connection = Connection(site)
        connection.call("/nowhere")
        begin.wait()
        while not stop.is_set():
            begun_s = time.perf_counter()
            done = step(connection)
            if not done:
                return
            took.append(time.perf_counter() - begun_s)
            counts[number] += done

    threads = [threading.Thread(target=work, args=(n,)) for n in range(n_connections)]
    for thread in threads:
        thread.start()
    begin.wait()
    begun_s = time.perf_counter()
    deadline_s = begun_s + seconds
    while time.perf_counter() < deadline_s and any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    lasted_s = time.perf_counter() - begun_s
    ordered = sorted(took) or [0.0]
    return Rate(
        sum(counts) / lasted_s,
        1e3 * statistics.median(ordered),
        1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    )


class Figures:
    """The benchmark of one pair."""

    def __init__(self, kmes: TwoKmes, seconds: float) -> None:
        self.kmes, self.seconds = kmes, seconds
        self.master, self.slave = kmes.sites

    def idle(self) -> None:
        time.sleep(5.0)
        before = {name: self._cpu_s(name) for name in SERVICES}
        time.sleep(30.0)
        used = {name: (self._cpu_s(name) - before[name]) / 30.0 for name in SERVICES}
        for name, share in used.items():
            print(f"idle {name:<10} {100 * share:6.2f} % of one core")
        print(f"idle in all      {100 * sum(used.values()):6.2f} % of one core")

    def _cpu_s(self, service: str) -> float:
        stats = self.master.container(service).stats(stream=False)
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

    def rates(self, n_connections: int) -> None:
        slave, master = self.slave.sae, self.master.sae
        label = f"{n_connections} connection" + "s" * (n_connections > 1)
        yardstick = measure(
            self.master, n_connections, lambda c: int(c.call("/nowhere")[0] == 404), self.seconds
        )
        print(f"{label}: yardstick 404      {yardstick}")
        ids: list[str] = []

        def enc(n_keys: int) -> Callable[[Connection], int]:
            def step(connection: Connection) -> int:
                status, body = connection.call(f"/api/v1/keys/{slave}/enc_keys?number={n_keys}")
                if status != 200:
                    return 0
                ids.extend(key["key_ID"] for key in json.loads(body)["keys"])
                return n_keys

            return step

        def dec(n_keys: int) -> Callable[[Connection], int]:
            def step(connection: Connection) -> int:
                wanted = [ids.pop() for _ in range(min(n_keys, len(ids)))]
                if len(wanted) < n_keys:
                    return 0
                body = {"key_IDs": [{"key_ID": key_id} for key_id in wanted]}
                status, _ = connection.call(f"/api/v1/keys/{master}/dec_keys", body)
                return n_keys if status == 200 else 0

            return step

        def status(connection: Connection) -> int:
            return int(connection.call(f"/api/v1/keys/{slave}/status")[0] == 200)

        for name, site, step in (
            ("status", self.master, status),
            ("enc_keys, 1 key ", self.master, enc(1)),
            ("dec_keys, 1 key ", self.slave, dec(1)),
            ("enc_keys, 20 keys", self.master, enc(20)),
            ("dec_keys, 20 keys", self.slave, dec(20)),
        ):
            rate = measure(site, n_connections, step, self.seconds)
            print(
                f"{label}: {name:<18} {rate}   {rate.per_s / yardstick.per_s:6.2f} of the yardstick"
            )

    def images(self) -> None:
        for image in sorted(self.kmes.docker.images.list(), key=lambda image: str(image.tags)):
            for tag in image.tags:
                if tag.startswith("kme/") and tag.endswith(":dev"):
                    print(f"image {tag:<20} {image.attrs['Size'] / 1e6:6.0f} MB")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each rate is measured")
    parser.add_argument("--files", type=int, default=1000, help="how many final keys are taken in")
    arguments = parser.parse_args()
    kmes = TwoKmes()
    figures = Figures(kmes, arguments.seconds)
    figures.images()
    figures.idle()
    figures.ingest(arguments.files, 1024)
    # Stock for the rates below: 16 KiB are 510 keys.
    figures.ingest(400, 16384)
    time.sleep(30.0)
    for n_connections in (1, 8):
        figures.rates(n_connections)


if __name__ == "__main__":
    main()
