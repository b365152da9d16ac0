"""embedded - a whole KME in one process: SQLite, ingest, pairing, supply and both interfaces."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from kme.clock import SystemClock
from kme.errors import SettingsError
from kme.etsi014.api import create_app
from kme.etsi014.identity import CertificateIdentity
from kme.ids import KmeId, SaeId, SourceId
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.watcher import Watcher
from kme.log import set_up_logging
from kme.pairing.pair import PeerConfig
from kme.pairing.pairing import Pairing
from kme.peer.api import create_peer_app
from kme.peer.client import HttpPeerLink
from kme.pki.bundle import CredentialFiles
from kme.pki.identity import KME_PREFIX
from kme.pki.tls import client_context, server_context
from kme.runtime import stop_when_input_ends
from kme.server import MutualTlsServer
from kme.settings import InterfaceSettings, KmeSettings, PeerSettings
from kme.store.ports import Store
from kme.store.sqlite import SqliteStore
from kme.store.sqlite.masterkey import create_master_key
from kme.supply.cache import BlockCache
from kme.supply.claim import fresh_worker_name
from kme.supply.directory import SaeDirectory
from kme.supply.draw import DrawPorts
from kme.supply.grantee import Grantee
from kme.supply.local import keep_expiring
from kme.supply.purge import keep_purging, keep_releasing
from kme.supply.supply import LinkSupply, SupplyLimits

_POLL_S: Final = 0.1
"""How often the leader looks for new final keys; one indexed read each time."""

_logger = logging.getLogger(__name__)


async def run_kme(
    settings: KmeSettings,
    stop: asyncio.Event,
    *,
    stops_with_input: bool = False,
    around_store: Callable[[Store], Store] = lambda store: store,
) -> None:
    """Run a KME until `stop`.

    Parameters
    ----------
    settings
        All of its settings, checked.
    stop
        Ends it cleanly.
    stops_with_input
        Whether the end of standard input ends it too.
    around_store
        Puts something around the store: the place where a test makes it crash.

    Raises
    ------
    KmeError
        If it cannot start: a port in use, a file that cannot be read, a store
        that another process holds.
    """
    set_up_logging(settings.log.level, settings.log.format)
    if stops_with_input:
        stop_when_input_ends(stop)
    async with AsyncExitStack() as stack:
        store = around_store(await stack.enter_async_context(_open_store(settings)))
        links = {
            KmeId(peer.id): await stack.enter_async_context(_link_to(peer, settings))
            for peer in settings.peers
        }
        await _run(settings, store, links, stop)
    _logger.info("stopped", extra={"kme": settings.id})


async def _run(
    settings: KmeSettings, store: Store, links: dict[KmeId, HttpPeerLink], stop: asyncio.Event
) -> None:
    """Compose the stages and run them until `stop`."""
    clock = SystemClock()
    local = KmeId(settings.id)

    async def heed_floors() -> None:
        await supply.heed_floors()

    pairing = Pairing(
        local,
        store,
        clock,
        [(_peer_config(p, settings), links[KmeId(p.id)]) for p in settings.peers],
        heed_floors=heed_floors,
    )
    directory = SaeDirectory(
        local, tuple(links), tuple((SaeId(sae.id), KmeId(sae.kme)) for sae in settings.saes)
    )
    supply = LinkSupply(
        directory, store, pairing, clock, fresh_worker_name(), _limits(settings), links=links
    )
    grantee = Grantee(DrawPorts(directory, store, BlockCache(store), clock), pairing)
    watcher = Watcher(Ingest(store, clock), _feeds(settings), settings.ingest.poll_interval_s)
    identity = CertificateIdentity(directory.is_local, clock)
    sae_app = create_app(supply, identity, settings.offer.of_kme(local))
    sae_server = _server(sae_app, settings.sae_interface)
    peer_app = create_peer_app(local, pairing, tuple(links), grants=grantee)
    peer_server = _server(peer_app, settings.peer_interface)
    # Both ports are bound before anything is written: a second process of the
    # same configuration ends here.
    await sae_server.start()
    await peer_server.start()
    await supply.open()
    _logger.info(
        "serving",
        extra={
            "kme": settings.id,
            "sae_port": settings.sae_interface.port,
            "peer_port": settings.peer_interface.port,
        },
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(supply.close)
        async with asyncio.TaskGroup() as tasks:
            # Ends first of all, so that no request is under way when the rest ends.
            tasks.create_task(sae_server.run(stop), name="sae interface")
            tasks.create_task(peer_server.run(stop), name="peer interface")
            tasks.create_task(pairing.run(stop), name="pairing")
            tasks.create_task(watcher.run(stop), name="watcher")
            housekeeping = [
                tasks.create_task(keep_purging(store, clock), name="purging"),
                tasks.create_task(keep_releasing(supply, clock), name="old claims"),
            ]
            if settings.offer.local_pairs:
                expiring = keep_expiring(local, store, clock, settings.pairing.key_lifetime_s)
                housekeeping.append(tasks.create_task(expiring, name="local expiry"))
            await stop.wait()
            for task in housekeeping:
                task.cancel()


@asynccontextmanager
async def _open_store(settings: KmeSettings) -> AsyncIterator[Store]:
    master_key = await asyncio.to_thread(create_master_key, settings.store.master_key)
    store = await SqliteStore.open(KmeId(settings.id), settings.store.path, master_key)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _link_to(peer: PeerSettings, settings: KmeSettings) -> AsyncIterator[HttpPeerLink]:
    own = settings.peer_interface
    context = client_context(_credential(own), own.client_ca, KME_PREFIX + peer.id, own.client_crl)
    timeout_s = settings.pairing.request_timeout_s
    async with HttpPeerLink(KmeId(peer.id), peer.url, context, timeout_s) as link:
        yield link


def _server(app: object, interface: InterfaceSettings) -> MutualTlsServer:
    context = server_context(_credential(interface), interface.client_ca, interface.client_crl)
    return MutualTlsServer(app, context, interface.host, interface.port)


def _credential(interface: InterfaceSettings) -> CredentialFiles:
    return CredentialFiles(interface.certificate, interface.key)


def _limits(settings: KmeSettings) -> SupplyLimits:
    return SupplyLimits(
        reserves=[reserve.of_pair() for reserve in settings.reserves],
        local_pairs=settings.offer.local_pairs,
        local_lifetime_s=settings.pairing.key_lifetime_s,
    )


def _peer_config(peer: PeerSettings, settings: KmeSettings) -> PeerConfig:
    timing = settings.pairing
    return PeerConfig(
        KmeId(peer.id),
        {SourceId(source.id): source.source_class for source in peer.sources},
        heartbeat_interval_s=timing.heartbeat_interval_s,
        lease_s=timing.lease_s,
        gather_s=timing.gather_s,
        poll_s=_POLL_S,
        block_bytes=timing.block_bytes,
        lifetime_s=timing.key_lifetime_s,
        max_stock_bytes=timing.max_stock_bytes,
    )


def _feeds(settings: KmeSettings) -> list[Feed]:
    """Return the folders in which final keys arrive.

    Raises
    ------
    SettingsError
        If one of them is not there.
    """
    feeds = [
        Feed(KmeId(peer.id), SourceId(source.id), source.directory)
        for peer in settings.peers
        for source in peer.sources
    ]
    for feed in feeds:
        if not feed.directory.is_dir():
            raise SettingsError(
                f"source {feed.source}: {feed.directory} is no folder; make it, mode 0700"
            )
    return feeds
