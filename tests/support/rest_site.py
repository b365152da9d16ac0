"""rest_site - the rest service itself on a real Vault, its peer an embedded KME, on this host."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hop import Hop
from kme.clock import SystemClock
from kme.errors import KeyNotFoundError, KmeError
from kme.etsi014.client import Sae014Client, open_client
from kme.ids import KmeId, SaeId, SourceId
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.watcher import Watcher
from kme.pair import DEFAULT_SAES, HOST, KME_IDS, PairPlan, free_ports, lay_out
from kme.pki.authority import Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.pki.tls import client_context, server_context
from kme.registry.peers import PeerSite, write_site
from kme.registry.saes import SaeRegistry
from kme.secret import Secret
from kme.server import MutualTlsServer
from kme.store.records import SourceClass
from kme.store.vault import VaultStore
from kme.vault.documents import Documents
from kme.vault.session import VaultSession
from pair_on_host import ALICE, BOB, EVE, QUICK, PairOnHost
from real_vault import RealVault
from server_thread import ServerThread

_REPOSITORY: Final = Path(__file__).parents[2]
_SERVICE: Final = _REPOSITORY / "services/rest"
_SOURCE: Final = SourceId("qkd-1")
_DIGEST_KEY: Final = bytes(range(32))
_DAY: Final = Validity.lasting(timedelta(days=1), datetime.now(UTC))
_ARGUMENTS: Final = ("--config", "gunicorn.conf.py", "rest:application")

_T = TypeVar("_T")

HERE, PEER = KME_IDS
CAROL: Final = SaeId("carol")
"""She lives at the rest service, and is there to be revoked."""


class RestSite:
    """KME a is the rest service on Vault, behind two hops; KME b is embedded.

    Parameters
    ----------
    folder
        Everything it keeps.
    vault
        A Vault of its own.
    loop
        Where hops and clients run.
    """

    def __init__(self, folder: Path, vault: RealVault, loop: ServerThread) -> None:
        self.folder, self.vault, self.loop = folder, vault, loop
        self.port, self.back_port = free_ports(2)
        self.host = PairOnHost(folder / "pair", QUICK)
        plan = PairPlan(
            folder / "pair",
            [p for k in self.host.pair.kmes for p in (k.sae_port, k.peer_port)],
            {**DEFAULT_SAES, CAROL: HERE},
            _SOURCE,
            SourceClass.QKD,
            QUICK,
        )
        self.pair = self.host.pair = lay_out(plan)
        self.log = folder / "rest.log"
        self.run = folder / "run"
        self._tls = folder / "tls"
        self._process: subprocess.Popen[bytes] | None = None
        self._front: list[Callable[[], Coroutine[Any, Any, None]]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator["RestSite"]:
        """Set everything up and start it; it ends with the context."""
        self._lay_out()
        self._set_vault_up()
        self.call(self._write_documents())
        self._open_front()
        try:
            self.host.start(PEER)
            self.start()
            yield self
        finally:
            self.host.stop_all()
            self.kill_all()
            for closing in self._front:
                self.call(closing())

    def call(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float = 60.0) -> _T:
        """Run a coroutine in the loop."""
        return self.loop.call(coroutine, timeout_s)

    # The service

    def start(self) -> None:
        """Start gunicorn with its workers."""
        self.run.mkdir(mode=0o700, exist_ok=True)
        for left in self.run.glob("*"):
            if left.is_file() or left.is_socket():
                left.unlink()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *_ARGUMENTS],
                cwd=_SERVICE,
                env=self._environment(),
                stdout=log,
                stderr=log,
            )

    def stop(self) -> int:
        """Ask the service to stop; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill_all(self) -> None:
        """Kill every process of the service."""
        if self._process is not None and self._process.poll() is None:
            for pid in [*self.workers(), self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(20)

    def workers(self) -> list[int]:
        """Return the worker processes that run."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def elected(self) -> int | None:
        """Return the worker that holds the lock of the elected one."""
        inode = (self.run / "elected").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "->" not in fields and fields[5].endswith(f":{inode}"):
                return int(fields[4])
        return None

    def _environment(self) -> dict[str, str]:
        settings: dict[str, object] = {
            "ID": HERE,
            "LINKS": f"{PEER}/{_SOURCE}",
            "LOG__LEVEL": "INFO",
            "VAULT__URL": self.vault.url,
            "VAULT__CA": self.vault.ca,
            "VAULT__CERTIFICATE": self._tls / "client.pem",
            "VAULT__KEY": self._tls / "client-key.pem",
            "REST__WORKERS": 2,
            "REST__HOST": HOST,
            "REST__PORT": self.port,
            "REST__PEER_PORT": self.back_port,
            "REST__CERTIFICATE": self._tls / "server.pem",
            "REST__KEY": self._tls / "server-key.pem",
            "REST__SERVICES_CA": self._tls / "services-ca.pem",
            "REST__SAE_CA": self.pair.pki.sae_ca,
            "REST__KME_CERTIFICATE": self.pair.pki.kme_certificates[HERE].certificate,
            "REST__KME_KEY": self.pair.pki.kme_certificates[HERE].key,
            "REST__RUN": self.run,
            "REST__POLL_S": 1,
            "OFFER__LOCAL_PAIRS": "true",
            "PAIRING__HEARTBEAT_INTERVAL_S": 0.5,
            "PAIRING__LEASE_S": 4,
            "PAIRING__GATHER_S": 0.1,
            "PAIRING__POLL_S": 0.2,
        }
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_REPOSITORY / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **{f"KME_{name}": str(value) for name, value in settings.items()},
        }

    # Its surroundings

    def _lay_out(self) -> None:
        leaf = Leaf("rest", TlsRole.SERVER, ("service-id:rest",), (HOST, "rest"))
        server = CredentialFiles(self._tls / "server.pem", self._tls / "server-key.pem")
        write_credential(self.vault.services.issue(leaf, _DAY), server)
        issuer = self.vault.services.credential.chain[:1]
        write_certificates(issuer, self._tls / "services-ca.pem")
        for service, stem in {"rest": "client", "traefik": "hop", "operator": "operator"}.items():
            files = CredentialFiles(self._tls / f"{stem}.pem", self._tls / f"{stem}-key.pem")
            one = Leaf(service, TlsRole.CLIENT, (f"service-id:{service}",))
            write_credential(self.vault.services.issue(one, _DAY), files)

    def _set_vault_up(self) -> None:
        self.vault.policy("rest", (_SERVICE / "policy.hcl").read_text())
        self.vault.role("rest", "rest", ["rest"])
        certificate = self.pair.pki.sae_ca
        bundle = certificate.read_text() + certificate.with_suffix(".key").read_text()
        with self.vault.root_client() as client:
            client.sys.enable_secrets_engine("pki", path="pki-sae")
            client.secrets.pki.submit_ca_information(bundle, mount_point="pki-sae")

    @asynccontextmanager
    async def documents(self) -> AsyncIterator[Documents]:
        """Give all documents in Vault, to read and to write."""
        session = VaultSession(self.vault.access())
        await session.open()
        try:
            yield Documents(session)
        finally:
            await session.close()

    def revoke(self, sae: SaeId) -> None:
        """Have Vault revoke an SAE's certificate."""
        pem = self.pair.pki.sae_certificates[sae].certificate.read_text()
        leaf = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.PEM).decode()
        with self.vault.root_client() as client:
            client.adapter.post("/v1/pki-sae/revoke", json={"certificate": leaf})

    async def _write_documents(self) -> None:
        async with self.documents() as documents:
            await self._write_into(documents)

    async def _write_into(self, documents: Documents) -> None:
        key = Secret(_DIGEST_KEY).to_base64()
        await documents.write("site/digest-key", {"key": key}, 0)
        _, peer = self.pair.kmes
        site = PeerSite(
            PEER, "b", peer.peer_url, peer.sae_url, self.pair.pki.kme_ca.read_text(), "", "", 0.0
        )
        self.site = site
        await write_site(documents, site)
        registry = SaeRegistry(HERE, documents, SystemClock())
        for sae in (ALICE, CAROL):
            await registry.add(sae, "01")
        others = {sae: {"since": 0.0, "removed": None} for sae in (BOB, EVE)}
        await documents.write(f"registry/peers/{PEER}", {"counter": 1, "saes": others}, 0)

    def _open_front(self) -> None:
        pki, (here, _) = self.pair.pki, self.pair.kmes
        own = CredentialFiles(self._tls / "hop.pem", self._tls / "hop-key.pem")
        trusted = self._tls / "services-ca.pem"
        fronts = (
            (pki.service_certificates[HERE], pki.sae_ca, here.sae_port, self.port),
            (pki.kme_certificates[HERE], pki.kme_ca, here.peer_port, self.back_port),
        )
        for credential, clients, port, behind in fronts:
            hop = Hop(f"https://{HOST}:{behind}", client_context(own, trusted))
            context = server_context(credential, clients)
            server = MutualTlsServer(hop, context, HOST, port)
            self.call(server.start())
            self._front += [server.stop, hop.close]

    # What tests do

    def service_client(self, service: str) -> httpx.Client:
        """Return a client that shows the certificate of a service, to the service's own port."""
        own = CredentialFiles(self._tls / f"{service}.pem", self._tls / f"{service}-key.pem")
        context = client_context(own, self._tls / "services-ca.pem")
        return httpx.Client(verify=context, trust_env=False, timeout=10)

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Ask whether the service is ready."""
        with self.service_client("operator") as client:
            try:
                answer = client.get(f"https://{HOST}:{self.port}/health/ready")
            except httpx.TransportError:
                return 0, {}
            return answer.status_code, json.loads(answer.content)

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = 30.0) -> float:
        """Wait until something is so; return how long that took."""
        begun_s = time.monotonic()
        while not is_so():
            lasted_s = time.monotonic() - begun_s
            assert lasted_s < timeout_s, f"not so in time\n{self.log.read_text()[-8000:]}"
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def is_serving(self) -> bool:
        """Whether the service is ready and its peer alive."""
        status, body = self.ready()
        return status == 200 and body["peers"] == {PEER: "alive"}

    def feed(self, n_files: int = 4) -> None:
        """Let both KMEs have the same new key."""
        for _ in range(n_files):
            self.host.source.feed()
        here, _ = self.pair.kmes
        self.call(self._take_in(Feed(PEER, _SOURCE, here.epochs)))

    async def _take_in(self, feed: Feed) -> None:
        async with self.documents() as documents:
            store = await VaultStore.open(HERE, documents, Secret(_DIGEST_KEY))
            await Watcher(Ingest(store, SystemClock()), [feed], 1).look(feed)
            await store.close()

    def sae(self, sae: SaeId) -> "contextlib.AbstractAsyncContextManager[Sae014Client]":
        """Return a client of an SAE, to the KME where it lives."""
        pki = self.pair.pki
        url = self.pair.home_of(sae).sae_url
        home: KmeId = self.pair.saes[sae]
        return open_client(url, pki.sae_certificates[sae], pki.service_ca, home)

    def exchange(self, one: SaeId, other: SaeId) -> None:
        """Hand one key over in each direction."""

        async def work() -> None:
            async with self.sae(one) as mine, self.sae(other) as theirs:
                for master, slave, asks, draws in (
                    (one, other, mine, theirs),
                    (other, one, theirs, mine),
                ):
                    [key] = await asks.enc_keys(slave, 1)
                    [same] = await draws.dec_keys(master, [key.key_id])
                    assert same.key.reveal() == key.key.reveal()

        self.call(work())

    def share(self, master: SaeId, *slaves: SaeId) -> None:
        """Hand two keys to several slaves; each gets them once."""

        async def work() -> None:
            async with self.sae(master) as asks:
                keys = await asks.enc_keys(slaves[0], 2, more_slaves=slaves[1:])
            for slave in slaves:
                async with self.sae(slave) as draws:
                    ids = [key.key_id for key in keys]
                    assert await draws.dec_keys(master, ids) == keys
                    with pytest.raises(KeyNotFoundError):
                        await draws.dec_keys(master, ids)

        self.call(work())

    def can_exchange(self, one: SaeId, other: SaeId) -> bool:
        """Whether `exchange` works now."""
        try:
            self.exchange(one, other)
        except KmeError:
            return False
        return True
