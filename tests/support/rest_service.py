"""rest_service - the rest service of one KME on a real Vault, behind two hops, on this host."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hop import Hop
from kme.clock import SystemClock
from kme.ids import SaeId, SourceId
from kme.pair import HOST, KmePlace, Pair, free_ports
from kme.pki.authority import Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.pki.tls import client_context, server_context
from kme.registry.peers import PeerSite, write_site
from kme.registry.saes import SaeRegistry
from kme.secret import Secret
from kme.server import MutualTlsServer
from kme.vault.documents import Documents
from kme.vault.session import VaultSession
from real_vault import RealVault

_REPOSITORY: Final = Path(__file__).parents[2]
_SERVICE: Final = _REPOSITORY / "services/rest"
_DAY: Final = Validity.lasting(timedelta(days=1), datetime.now(UTC))
_ARGUMENTS: Final = ("--config", "gunicorn.conf.py", "rest:application")

SOURCE: Final = SourceId("qkd-1")
DIGEST_KEY: Final = bytes(range(32))


class RestService:
    """gunicorn with its workers, what they keep in Vault, and what stands in front of them.

    Parameters
    ----------
    place, peer
        The KME that it is, and the other one of the pair.
    pair
        Both, their SAEs and certificates.
    vault
        A Vault of its own.
    folder
        Everything else that it keeps.
    n_workers
        How many workers gunicorn keeps running.
    """

    def __init__(
        self,
        place: KmePlace,
        peer: KmePlace,
        pair: Pair,
        vault: RealVault,
        folder: Path,
        n_workers: int = 2,
    ) -> None:
        self.place, self.peer, self.pair = place, peer, pair
        self.vault, self.folder, self.n_workers = vault, folder, n_workers
        self.port, self.back_port = free_ports(2)
        self.log = folder / "rest.log"
        self.run = folder / "run"
        self.hops: list[Hop] = []
        self._tls = folder / "tls"
        self._process: subprocess.Popen[bytes] | None = None
        self._front: list[Callable[[], Awaitable[None]]] = []

    # Its processes

    def start(self) -> None:
        """Start gunicorn with its workers."""
        # A file system in memory in the container: empty at every start.
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(mode=0o700)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *_ARGUMENTS],
                cwd=_SERVICE,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> int:
        """Ask the service to stop; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def is_dead(self) -> bool:
        """Whether gunicorn has ended."""
        return self._process is None or self._process.poll() is not None

    def kill_all(self) -> None:
        """Kill every process of the service at once, as the end of a container does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
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
            "ID": self.place.id,
            "LINKS": f"{self.peer.id}/{SOURCE}",
            "LOG__LEVEL": "INFO",
            "VAULT__URL": self.vault.url,
            "VAULT__CA": self.vault.ca,
            "VAULT__CERTIFICATE": self._tls / "client.pem",
            "VAULT__KEY": self._tls / "client-key.pem",
            "REST__WORKERS": self.n_workers,
            "REST__HOST": HOST,
            "REST__PORT": self.port,
            "REST__PEER_PORT": self.back_port,
            "REST__CERTIFICATE": self._tls / "server.pem",
            "REST__KEY": self._tls / "server-key.pem",
            "REST__SERVICES_CA": self._tls / "services-ca.pem",
            "REST__SAE_CA": self.pair.pki.sae_ca,
            "REST__KME_CERTIFICATE": self.pair.pki.kme_certificates[self.place.id].certificate,
            "REST__KME_KEY": self.pair.pki.kme_certificates[self.place.id].key,
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

    def set_up(self) -> None:
        """Make its certificates, and in Vault what `vault_init` would; Vault runs."""
        self._lay_out()
        self._set_vault_up()

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

    async def connect(self, documents: Documents, peer_url: str) -> PeerSite:
        """Write what an operator says: the site's key, the peer, which is reached so."""
        await documents.write("site/digest-key", {"key": Secret(DIGEST_KEY).to_base64()}, 0)
        ca = self.pair.pki.kme_ca.read_text()
        site = PeerSite(self.peer.id, "b", peer_url, self.peer.sae_url, ca, "", "", 0.0)
        await write_site(documents, site)
        return site

    async def register(
        self, documents: Documents, here: Iterable[SaeId], there: Iterable[SaeId]
    ) -> None:
        """Let SAEs live here, and know of others at the peer from the start."""
        registry = SaeRegistry(self.place.id, documents, SystemClock())
        for sae in here:
            await registry.add(sae, "01")
        others = {sae: {"since": 0.0, "removed": None} for sae in there}
        path = f"registry/peers/{self.peer.id}"
        await documents.write(path, {"counter": 1, "saes": others}, 0)

    async def open_front(self) -> None:
        """Start what Traefik would be: one hop for SAEs, one for the peer."""
        pki, kme = self.pair.pki, self.place.id
        own = CredentialFiles(self._tls / "hop.pem", self._tls / "hop-key.pem")
        trusted = self._tls / "services-ca.pem"
        fronts = (
            (pki.service_certificates[kme], pki.sae_ca, self.place.sae_port, self.port),
            (pki.kme_certificates[kme], pki.kme_ca, self.place.peer_port, self.back_port),
        )
        for credential, clients, port, behind in fronts:
            hop = Hop(f"https://{HOST}:{behind}", client_context(own, trusted))
            context = server_context(credential, clients)
            server = MutualTlsServer(hop, context, HOST, port)
            await server.start()
            self.hops.append(hop)
            self._front += [server.stop, hop.close]

    async def close_front(self) -> None:
        """Stop the hops."""
        for closing in self._front:
            await closing()
