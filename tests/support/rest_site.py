"""rest_site - the rest service itself on a real Vault, its peer an embedded KME, on this host."""

import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.clock import SystemClock
from kme.errors import KeyNotFoundError, KmeError
from kme.etsi014.client import Sae014Client, open_client
from kme.ids import KmeId, SaeId
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.watcher import Watcher
from kme.pair import DEFAULT_SAES, HOST, KME_IDS, PairPlan, lay_out
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import client_context
from kme.secret import Secret
from kme.store.records import SourceClass
from kme.store.vault import VaultStore
from pair_on_host import ALICE, BOB, EVE, QUICK, PairOnHost
from real_vault import RealVault
from rest_service import DIGEST_KEY, SOURCE, RestService
from server_thread import ServerThread

_T = TypeVar("_T")

HERE, PEER = KME_IDS
CAROL: Final = SaeId("carol")
"""She lives at the rest service, and is there to be revoked."""


class RestSite(RestService):
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
        self.loop = loop
        self.host = PairOnHost(folder / "pair", QUICK)
        plan = PairPlan(
            folder / "pair",
            [p for k in self.host.pair.kmes for p in (k.sae_port, k.peer_port)],
            {**DEFAULT_SAES, CAROL: HERE},
            SOURCE,
            SourceClass.QKD,
            QUICK,
        )
        self.host.pair = lay_out(plan)
        super().__init__(*self.host.pair.kmes, self.host.pair, vault, folder)

    @contextlib.contextmanager
    def running(self) -> Iterator["RestSite"]:
        """Set everything up and start it; it ends with the context."""
        self.set_up()
        self.call(self._write_documents())
        self.call(self.open_front())
        try:
            self.host.start(PEER)
            self.start()
            yield self
        finally:
            self.host.stop_all()
            self.kill_all()
            self.call(self.close_front())

    def call(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float = 60.0) -> _T:
        """Run a coroutine in the loop."""
        return self.loop.call(coroutine, timeout_s)

    # Its surroundings

    def revoke(self, sae: SaeId) -> None:
        """Have Vault revoke an SAE's certificate."""
        pem = self.pair.pki.sae_certificates[sae].certificate.read_text()
        leaf = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.PEM).decode()
        with self.vault.root_client() as client:
            client.adapter.post("/v1/pki-sae/revoke", json={"certificate": leaf})

    async def _write_documents(self) -> None:
        async with self.documents() as documents:
            self.site = await self.connect(documents, self.peer.peer_url)
            await self.register(documents, (ALICE, CAROL), (BOB, EVE))

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
        self.call(self._take_in(Feed(PEER, SOURCE, here.epochs)))

    async def _take_in(self, feed: Feed) -> None:
        async with self.documents() as documents:
            store = await VaultStore.open(HERE, documents, Secret(DIGEST_KEY))
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
