"""Two appliances in Docker, as `scripts/two-kmes` starts them, for tests to call and to hurt."""

import base64
import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import urllib3
from docker.models.containers import Container

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "two-kmes"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a KME answered."""

    status: int
    body: Any

    @property
    def keys(self) -> dict[str, bytes]:
        """The keys of a key container, by their ids."""
        return {key["key_ID"]: base64.b64decode(key["key"]) for key in self.body["keys"]}


@dataclass(frozen=True)
class Credential:
    """What an SAE shows; None stands for a client without a certificate."""

    certificate: Path
    key: Path


class Site:
    """One of the two appliances."""

    def __init__(self, name: str, client: docker.DockerClient) -> None:
        self.name = name
        self.folder = FOLDER / name
        self.docker = client

    @property
    def settings(self) -> dict[str, str]:
        """The site's .env."""
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    @property
    def sae(self) -> str:
        """The site's first SAE."""
        return f"sae-{self.name}"

    def credential(self, sae: str | None = None) -> Credential:
        """Return what one of the site's SAEs shows."""
        folder = self.folder / "exchange" / "sae" / (sae or self.sae)
        return Credential(folder / "sae.pem", folder / "sae-key.pem")

    @property
    def root_ca(self) -> Path:
        """The site's root certificate."""
        return self.folder / "exchange" / "sae" / self.sae / "root.pem"

    def container(self, service: str) -> Container:
        """Return the container of a service."""
        (found,) = self.docker.containers.list(
            all=True,
            filters={
                "label": [
                    f"com.docker.compose.project={self.settings['KME_PROJECT']}",
                    f"com.docker.compose.service={service}",
                    "com.docker.compose.oneoff=False",
                ]
            },
        )
        return found

    def make(self, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Do what the site's operator would: ``make target NAME=value``."""
        assignments = [f"{name}={value}" for name, value in variables.items()]
        return subprocess.run(
            ["make", "--no-print-directory", target, f"SITE={self.folder}", *assignments],
            cwd=ROOT,
            env={**os.environ, "YES": "yes"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def call(
        self,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        credential: Credential | None = None,
        headers: Mapping[str, str] | None = None,
        port: str = "KME_SAE_PORT",
        prefix: str = "/api/v1/keys",
    ) -> Answer:
        """Call the KME over mutual TLS through its Traefik, on a connection of its own."""
        settings = self.settings
        context = ssl.create_default_context(cafile=self.root_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if credential is not None:
            context.load_cert_chain(credential.certificate, credential.key)
        pool = urllib3.HTTPSConnectionPool(
            settings["KME_BIND"],
            int(settings[port]),
            ssl_context=context,
            server_hostname=settings["KME_HOST"],
            assert_hostname=settings["KME_HOST"],
            retries=False,
            timeout=15.0,
        )
        with pool:
            response = pool.request(
                "GET" if body is None else "POST",
                f"{prefix}{path}",
                body=None if body is None else json.dumps(body),
                headers={"Host": settings["KME_HOST"], "Content-Type": "application/json"}
                | dict(headers or {}),
            )
        try:
            content = json.loads(response.data)
        except ValueError:
            content = response.data.decode("utf-8", "replace")
        return Answer(response.status, content)

    def enc_keys(self, slave: "Site", n_keys: int = 1, size_bits: int = 256) -> Answer:
        """Ask for new keys, as the site's first SAE."""
        return self.call(
            f"/{slave.sae}/enc_keys?number={n_keys}&size={size_bits}", credential=self.credential()
        )

    def dec_keys(self, master: "Site", *key_ids: str) -> Answer:
        """Draw keys by their ids, as the site's first SAE."""
        wanted = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        return self.call(f"/{master.sae}/dec_keys", body=wanted, credential=self.credential())


class TwoKmes:
    """Both appliances."""

    def __init__(self) -> None:
        client = docker.from_env()
        self.first, self.second = Site("kme-1", client), Site("kme-2", client)
        self.docker = client

    @property
    def sites(self) -> tuple[Site, Site]:
        """Both."""
        return self.first, self.second

    def start(self) -> None:
        """Make and start what is not there yet; what is there gets more key."""
        if not (self.first.folder / "exchange").exists():
            self._script("run")
            return
        for site in self.sites:
            started = site.make("up")
            assert started.returncode == 0, started.stderr
        self.refill()

    def refill(self) -> None:
        """Let the simulated link make more key for both."""
        self._script("refill")

    @staticmethod
    def _script(command: str) -> None:
        subprocess.run([ROOT / "scripts" / "two-kmes", command], cwd=ROOT, check=True, timeout=900)

    def wait_until_served(self, timeout_s: float = PATIENCE_S) -> float:
        """Wait until keys flow in both directions; return how long that took, in seconds."""
        begun_s = time.monotonic()
        for master, slave in (self.sites, self.sites[::-1]):
            wait_for(
                lambda master=master, slave=slave: self.deliver(master, slave),  # type: ignore[misc]
                timeout_s,
            )
        return time.monotonic() - begun_s

    def deliver(self, master: Site, slave: Site) -> bool:
        """Fetch one key at both ends; return whether that worked. Unequal keys are an error."""
        try:
            given = master.enc_keys(slave)
            if given.status != 200:
                return False
            drawn = slave.dec_keys(master, *given.keys)
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        if drawn.status != 200:
            return False
        assert drawn.keys == given.keys
        return True


def wait_for(condition: Callable[[], bool], timeout_s: float, pause_s: float = 0.2) -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so after {timeout_s} s"
        time.sleep(pause_s)


@contextmanager
def cut_off(*sites: Site) -> Iterator[None]:
    """Lose every packet that these sites send to other KMEs while the context lasts.

    A rule in the network namespace of `rest` does it. Taking a Docker network
    away would not: from an internal network, too, a container reaches what its
    own host publishes.
    """
    cut: list[list[str]] = []
    try:
        for site in sites:
            for other in ("kme-1", "kme-2"):
                port = Site(other, site.docker).settings["KME_PEER_PORT"]
                rule = ["OUTPUT", "--protocol", "tcp", "--dport", port, "--jump", "DROP"]
                pid = str(site.container("rest").attrs["State"]["Pid"])
                inside = ["nsenter", "--target", pid, "--net", "iptables"]
                subprocess.run([*inside, "--insert", *rule], check=True)
                cut.append([*inside, "--delete", *rule])
        yield
    finally:
        for undo in cut:
            subprocess.run(undo, check=True)
