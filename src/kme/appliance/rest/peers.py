"""peers - connected KMEs in; ways to them, and who must have issued their certificates, out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from cryptography import x509

from kme.appliance.rest.settings import RestSettings
from kme.errors import CredentialError, IdentifierError, IdentityError, InputError
from kme.etsi014.forwarded import AuthorityOf
from kme.files import write_whole
from kme.ids import KmeId
from kme.pairing.pair import PeerConfig
from kme.peer.client import HttpPeerLink
from kme.pki.bundle import CredentialFiles
from kme.pki.identity import KME_PREFIX, uri_identity
from kme.pki.tls import client_context
from kme.registry.peers import PeerSite
from kme.store.records import SourceClass

_logger = logging.getLogger(__name__)

_FOLDER: Final = "peers"

Links = Mapping[KmeId, HttpPeerLink]


@asynccontextmanager
async def links_to(sites: Sequence[PeerSite], settings: RestSettings) -> AsyncIterator[Links]:
    """Give the way to each peer; one whose authority cannot be used is left out, with an error."""
    async with AsyncExitStack() as stack:
        links = {}
        for site in sites:
            try:
                link = await asyncio.to_thread(_link_to, site, settings)
            except InputError as error:
                fields = {"peer": site.kme, "reason": error.message}
                _logger.error("peer left out: connect it anew", extra=fields)
            else:
                links[site.kme] = await stack.enter_async_context(link)
        yield links


def authority_of_peers(sites: Sequence[PeerSite]) -> AuthorityOf:
    """Return who must have issued a KME's certificate: the authority of just that KME.

    No peer's authority can make certificates of another peer.
    """
    authorities: dict[KmeId, x509.Certificate] = {}
    for site in sites:
        try:
            authorities[site.kme] = x509.load_pem_x509_certificate(site.ca.encode())
        except ValueError:
            _logger.error("a peer's authority cannot be read", extra={"peer": site.kme})

    def authority_of(certificate: x509.Certificate) -> x509.Certificate:
        try:
            return authorities[KmeId(uri_identity(certificate, KME_PREFIX))]
        except (IdentifierError, KeyError) as error:
            raise IdentityError("the certificate is of no KME that is connected here") from error

    return authority_of


def config_of(peer: KmeId, settings: RestSettings) -> PeerConfig:
    """Return what was agreed on with a peer."""
    timing = settings.pairing
    return PeerConfig(
        peer,
        {link.source: SourceClass.QKD for link in settings.links if link.peer == peer},
        heartbeat_interval_s=timing.heartbeat_interval_s,
        lease_s=timing.lease_s,
        gather_s=timing.gather_s,
        poll_s=timing.poll_s,
        block_bytes=timing.block_bytes,
        lifetime_s=timing.key_lifetime_s,
        max_stock_bytes=timing.max_stock_bytes,
    )


def _link_to(site: PeerSite, settings: RestSettings) -> HttpPeerLink:
    """Return a link that is not open yet.

    Raises
    ------
    InputError
        If a certificate cannot be used.
    """
    rest = settings.rest
    folder = rest.run / _FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        trusted = folder / f"{site.kme}.pem"
        write_whole(trusted, site.ca.encode())
    except OSError as error:
        raise CredentialError(f"{folder}: cannot be written: {error.strerror}") from error
    own = CredentialFiles(rest.kme_certificate, rest.kme_key)
    context = client_context(own, trusted, KME_PREFIX + site.kme)
    return HttpPeerLink(site.kme, site.peer_url, context, settings.pairing.request_timeout_s)
