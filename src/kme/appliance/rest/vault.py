"""vault - settings in, what a worker keeps in Vault out; it waits for Vault as long as it takes."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from kme.appliance.rest.settings import RestSettings
from kme.clock import pause
from kme.errors import KmeError, SettingsError
from kme.ids import KmeId
from kme.pki.bundle import CredentialFiles
from kme.registry.peers import PeerSite, read_site
from kme.secret import Secret
from kme.store.vault.store import VaultStore
from kme.vault.documents import Documents
from kme.vault.pki import Pki
from kme.vault.session import VaultAccess, VaultSession

_logger = logging.getLogger(__name__)

_ROLE: Final = "rest"
_SAE_AUTHORITY: Final = "pki-sae"
_DIGEST_KEY: Final = "site/digest-key"
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kept:
    """What one worker keeps in Vault.

    Parameters
    ----------
    documents
        All documents.
    store
        Keys and what became of them.
    saes
        The authority of SAEs.
    sites
        The peers that an operator has connected, of those that this KME has links with.
    """

    documents: Documents
    store: VaultStore
    saes: Pki
    sites: tuple[PeerSite, ...]


def session_of(settings: RestSettings) -> VaultSession:
    """Return a session that is not open yet."""
    vault = settings.vault
    credential = CredentialFiles(vault.certificate, vault.key)
    return VaultSession(VaultAccess(vault.url, vault.ca, credential, _ROLE, vault.timeout_s))


async def open_kept(session: VaultSession, settings: RestSettings) -> Kept:
    """Open what is kept, in a session that is open.

    Raises
    ------
    KmeError
        If that is not possible now.
    """
    documents = Documents(session)
    store = await VaultStore.open(KmeId(settings.id), documents, await _digest_key(documents))
    sites = await connected_sites(documents, settings)
    return Kept(documents, store, Pki(session, _SAE_AUTHORITY), sites)


async def connected_sites(documents: Documents, settings: RestSettings) -> tuple[PeerSite, ...]:
    """Return which peers are connected, of those that there are links with."""
    found = [await read_site(documents, peer) for peer in linked_peers(settings)]
    return tuple(site for site in found if site is not None)


def linked_peers(settings: RestSettings) -> tuple[KmeId, ...]:
    """Return the KMEs that this one has links with, each once."""
    return tuple(dict.fromkeys(link.peer for link in settings.links))


async def keep_trying(
    what: str, act: Callable[[], Awaitable[_T]], stop: asyncio.Event
) -> _T | None:
    """Do something that needs Vault, again after ever longer pauses; None if `stop` was first."""
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        try:
            return await act()
        except KmeError as error:
            fields = {"what": what, "reason": error.message, "again_in_s": pause_s}
            _logger.warning("waits for Vault", extra=fields)
            await pause(stop, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return None


async def _digest_key(documents: Documents) -> Secret:
    """Return the site's key for digests of final keys.

    Raises
    ------
    SettingsError
        If it isn't there, or isn't one.
    """
    document = await documents.read(_DIGEST_KEY)
    if document is None:
        raise SettingsError(f"Vault holds no {_DIGEST_KEY}: run `make init` again, it resumes")
    try:
        return Secret(base64.b64decode(document.data["key"], validate=True))
    except (KeyError, TypeError, binascii.Error) as error:
        raise SettingsError(f"{_DIGEST_KEY} in Vault is no base64 text") from error
