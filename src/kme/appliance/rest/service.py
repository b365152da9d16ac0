"""service - settings in, one worker of the rest service composed and running out."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.appliance.rest.elected import LIVENESS_SOCKET, Elected
from kme.appliance.rest.gate import PROXY, FrontGate
from kme.appliance.rest.health import Health
from kme.appliance.rest.peers import links_to
from kme.appliance.rest.settings import RestSettings
from kme.appliance.rest.upkeep import Upkeep, UpkeepPorts
from kme.appliance.rest.vault import Kept, keep_trying, linked_peers, open_kept, session_of
from kme.clock import SystemClock
from kme.errors import PeerUnavailableError
from kme.etsi014.api import create_app
from kme.etsi014.forwarded import ForwardedCertificate
from kme.etsi014.identity import CertificateIdentity
from kme.ids import KmeId
from kme.pki.bundle import CredentialFiles, load_certificates
from kme.pki.revoked import RevocationMemory
from kme.pki.tls import server_context
from kme.registry.records import hold_of
from kme.registry.saes import SaeRegistry
from kme.server import MutualTlsServer
from kme.supply.claim import fresh_worker_name
from kme.supply.directory import SaeDirectory
from kme.supply.supply import LinkSupply, SupplyLimits
from kme.workers.instance import Instance
from kme.workers.lease import Lease
from kme.workers.listener import LivenessListener
from kme.workers.roll import Roll

_logger = logging.getLogger(__name__)

_ALIVE: Final = "alive"
_PROBED: Final = "lease"

_STOCK_SHARED_S: Final = 1.0
"""A status may be so old; SAEs that ask all the time cost Vault nothing then."""


async def run_worker(settings: RestSettings, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve on a socket until `stop`.

    The listener answers at once, with status 503 until Vault is there.

    Parameters
    ----------
    settings
        All settings, checked.
    listening
        A bound socket; other workers accept from it too.
    stop
        Ends it cleanly; set by the worker itself when it should start again.

    Raises
    ------
    KmeError
        If a certificate file cannot be used.
    """
    rest = settings.rest
    health = Health(SystemClock(), rest.run / _ALIVE)
    gate = FrontGate(health)
    context = server_context(CredentialFiles(rest.certificate, rest.key), rest.services_ca)
    server = MutualTlsServer(gate, context, listening=listening)
    await server.start()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.run(stop), name="listener")
        tasks.create_task(_Worker(settings, gate, health).run(serving, stop), name="worker")


@dataclass(frozen=True, slots=True)
class _Worker:
    """One worker, from the moment when Vault is there."""

    settings: RestSettings
    gate: FrontGate
    health: Health

    async def run(self, serving: asyncio.Task[None], stop: asyncio.Event) -> None:
        """Serve SAEs and stand for election until `stop`."""
        async with self._kept(stop) as kept:
            if kept is None:
                return
            async with AsyncExitStack() as stack:
                upkeep, listener = await self._open(kept, stack, stop)
                async with asyncio.TaskGroup() as tasks:
                    loops = [
                        tasks.create_task(listener.run(self._socket), name="liveness"),
                        tasks.create_task(self._stand(kept, upkeep), name="election"),
                        tasks.create_task(upkeep.run(), name="upkeep"),
                    ]
                    await stop.wait()
                    for loop in loops:
                        loop.cancel()
                # Answers under way need the supply.
                await asyncio.wait([serving])
                self.health.end()

    @asynccontextmanager
    async def _kept(self, stop: asyncio.Event) -> AsyncIterator[Kept | None]:
        """Wait for Vault; None if `stop` was first."""
        session = session_of(self.settings)
        kept: Kept | None = None
        try:
            await keep_trying("log in", session.open, stop)
            kept = await keep_trying("open", lambda: open_kept(session, self.settings), stop)
            yield kept
        finally:
            if kept is not None:
                await kept.store.close()
            await session.close()

    async def _open(
        self, kept: Kept, stack: AsyncExitStack, stop: asyncio.Event
    ) -> tuple[Upkeep, LivenessListener]:
        """Compose what serves SAEs, and let them in."""
        settings, clock = self.settings, SystemClock()
        local, peers = KmeId(settings.id), linked_peers(settings)
        self._warn_of_strangers(kept)
        listener = LivenessListener(clock, settings.pairing.lease_s)
        directory = SaeDirectory(local, peers)
        registry = SaeRegistry(local, kept.documents, clock, self._hold_s)
        authority = load_certificates(settings.rest.sae_ca, None)[0]
        revoked = RevocationMemory(authority, clock)
        name, roll = fresh_worker_name(), Roll(settings.rest.run)
        stack.enter_context(roll.present(name))
        links = await stack.enter_async_context(links_to(kept.sites, settings))
        limits = SupplyLimits(
            stock_shared_s=_STOCK_SHARED_S,
            reserves=[reserve.of_pair() for reserve in settings.reserves],
            local_pairs=settings.offer.local_pairs,
            local_lifetime_s=settings.pairing.key_lifetime_s,
        )
        supply = LinkSupply(directory, kept.store, listener, clock, name, limits, links=links)
        listener.on_silence = supply.drop_claims
        ports = UpkeepPorts(kept, registry, directory, revoked, supply, roll, self.health, clock)
        upkeep = Upkeep(settings, ports, stop)
        find = ForwardedCertificate(PROXY, lambda _: authority, revoked.require_good, clock)
        identity = CertificateIdentity(directory.is_local, clock, find)
        # The elected worker closes what lapsed; the others' claims are in use.
        await supply.open(closes_lapsed=False)
        stack.push_async_callback(supply.close)
        await keep_trying("look", upkeep.learn, stop)
        self.health.begin(lambda: kept.documents.read(_PROBED), lambda: _why_not(listener, peers))
        if not stop.is_set():
            self.gate.open(create_app(supply, identity, settings.offer.of_kme(local)))
            _logger.info("serving", extra={"kme": local, "sae_port": settings.rest.port})
        return upkeep, listener

    async def _stand(self, kept: Kept, upkeep: Upkeep) -> None:
        """Stand for election, alone of all workers here, and lead when elected."""
        clock = SystemClock()
        registry = SaeRegistry(KmeId(self.settings.id), kept.documents, clock, self._hold_s)
        elected = Elected(self.settings, kept, registry, upkeep, clock)
        async with Instance(self.settings.rest.run, clock).only_one() as name:
            await Lease(kept.documents, clock).run(name, elected.lead)

    def _warn_of_strangers(self, kept: Kept) -> None:
        connected = {site.kme for site in kept.sites}
        for peer in linked_peers(self.settings):
            if peer not in connected:
                _logger.warning("not connected yet: run `make connect`", extra={"peer": peer})

    @property
    def _hold_s(self) -> float:
        return hold_of(self.settings.pairing.key_lifetime_s)

    @property
    def _socket(self) -> Path:
        return self.settings.rest.run / LIVENESS_SOCKET


def _why_not(listener: LivenessListener, peers: tuple[KmeId, ...]) -> dict[str, str | None]:
    """Say for each peer why it isn't alive; None if it is."""
    reasons: dict[str, str | None] = {}
    for peer in peers:
        try:
            listener.require_alive(peer)
        except PeerUnavailableError as error:
            reasons[peer] = error.message
        else:
            reasons[peer] = None
    return reasons
