"""elected - what just one worker does: pairing and heartbeats, peers' and operators' calls."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from fastapi import Request

from kme.appliance.admin import create_admin_app
from kme.appliance.rest.gate import OPERATOR, PROXY, BackGate, require_service
from kme.appliance.rest.peers import Links, authority_of_peers, config_of, links_to
from kme.appliance.rest.settings import RestSettings
from kme.appliance.rest.upkeep import Upkeep
from kme.appliance.rest.vault import Kept
from kme.clock import Clock
from kme.etsi014.forwarded import ForwardedCertificate
from kme.ids import KmeId, SaeId
from kme.pairing.operations import OperationPorts, Operations
from kme.pairing.pairing import Pairing
from kme.pairing.saes import SaeTeller
from kme.peer.api import create_peer_app
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import server_context
from kme.registry.records import SaeList
from kme.registry.saes import SaeRegistry
from kme.server import MutualTlsServer, ServerLimits
from kme.supply.cache import BlockCache
from kme.supply.draw import DrawPorts
from kme.supply.grantee import Grantee
from kme.supply.local import keep_expiring
from kme.supply.purge import keep_purging
from kme.workers.feed import LivenessSpeaker

_logger = logging.getLogger(__name__)

LIVENESS_SOCKET: Final = "liveness"

_GOODBYE_S: Final = 1.0
"""Answers under way get no longer when the lease is lost; whoever takes over waits longer."""


@dataclass(frozen=True, slots=True)
class Elected:
    """What the elected worker does, as long as it is.

    Parameters
    ----------
    settings
        All settings.
    kept
        What is kept in Vault.
    registry
        Which SAE lives where.
    upkeep
        What operators can have done at once.
    clock
        The time.
    """

    settings: RestSettings
    kept: Kept
    registry: SaeRegistry
    upkeep: Upkeep
    clock: Clock

    async def lead(self) -> None:
        """Do it until cancelled; all of it may be cut off anywhere.

        Raises
        ------
        KmeError
            If it cannot begin.
        """
        n_lapsed = await self.upkeep.close_lapsed_claims()
        if n_lapsed:
            _logger.info("claims of earlier workers closed", extra={"n_claims": n_lapsed})
        async with AsyncExitStack() as stack:
            links = await stack.enter_async_context(links_to(self.kept.sites, self.settings))
            peers = [(config_of(peer, self.settings), link) for peer, link in links.items()]
            pairing = Pairing(
                KmeId(self.settings.id),
                self.kept.store,
                self.clock,
                peers,
                heed_floors=self.upkeep.heed_cleared,
            )
            server = self._server(pairing, links)
            await server.start()
            stack.push_async_callback(server.stop)
            speaker = LivenessSpeaker(pairing, self.clock)
            path = self.settings.rest.run / LIVENESS_SOCKET
            await stack.enter_async_context(speaker.speaking(path))
            until_cancelled = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                teller = SaeTeller(self.registry, links, self.clock)
                tasks.create_task(teller.run(until_cancelled), name="own SAEs")
                tasks.create_task(pairing.run(until_cancelled), name="pairing")
                tasks.create_task(keep_purging(self.kept.store, self.clock), name="purging")
                if self.settings.offer.local_pairs:
                    tasks.create_task(self._expire_local_keys(), name="local expiry")

    async def _expire_local_keys(self) -> None:
        lifetime_s = self.settings.pairing.key_lifetime_s
        await keep_expiring(KmeId(self.settings.id), self.kept.store, self.clock, lifetime_s)

    def _server(self, pairing: Pairing, links: Links) -> MutualTlsServer:
        rest = self.settings.rest
        authority_of = authority_of_peers(self.kept.sites)
        find = ForwardedCertificate(PROXY, authority_of, _require_nothing, self.clock)
        local = KmeId(self.settings.id)
        told = _Told(self.registry, self.upkeep)
        ports = OperationPorts(
            self.kept.store, self.clock, pairing, pairing, told, self.upkeep.heed_cleared
        )
        operations = Operations(local, ports, links)
        store = self.kept.store
        drawing = DrawPorts(self.upkeep.directory, store, BlockCache(store), self.clock)
        grantee = Grantee(drawing, pairing)
        peer_app = create_peer_app(local, pairing, tuple(links), find, operations, grants=grantee)
        admin_app = create_admin_app(
            operations, _require_operator, self.upkeep.look, self.upkeep.heed_cleared
        )
        context = server_context(CredentialFiles(rest.certificate, rest.key), rest.services_ca)
        return MutualTlsServer(
            BackGate(peer_app, admin_app),
            context,
            rest.host,
            rest.peer_port,
            ServerLimits(shutdown_s=_GOODBYE_S),
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """Keeps what peers tell of their SAEs, and lets all workers here know soon."""

    registry: SaeRegistry
    upkeep: Upkeep

    async def learn(self, peer: KmeId, told: SaeList) -> Sequence[SaeId]:
        """Keep a peer's list durably, and return what is new in it and somebody else's."""
        disputed = await self.registry.learn(peer, told)
        self.upkeep.ask()
        return disputed


def _require_operator(request: Request) -> None:
    """Return if the operator's own program calls."""
    require_service(request.scope, OPERATOR)


def _require_nothing(_: x509.Certificate) -> None:
    """Look at no revocation list: whoever mistrusts a KME disconnects it, with its authority."""
