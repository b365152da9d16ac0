"""watcher - the service that puts finished epoch files into Vault: settings and composition."""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from kme.appliance.settings import SiteSettings, VaultSettings
from kme.appliance.start import serve, stay_alive
from kme.clock import SystemClock, pause
from kme.epochs.notify import NoticeFifo
from kme.errors import SettingsError, UnavailableError
from kme.ids import KmeId
from kme.ingest.folders import make_shared
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.intake import Intake
from kme.ingest.notices import NoticeListener
from kme.pki.bundle import CredentialFiles
from kme.secret import Secret
from kme.store.ports import InboxStore
from kme.store.vault import VaultStore
from kme.vault.documents import Documents
from kme.vault.session import VaultAccess, VaultSession

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_ROLE: Final = "watcher"
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 15.0


class IntakeSettings(BaseModel):
    """How files are taken in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parallel: int = Field(
        default=16, ge=1, le=64, description="So many files are taken in at once."
    )


class WatcherSettings(SiteSettings):
    """The watcher."""

    vault: VaultSettings = Field(default=VaultSettings(), description="Where Vault is.")
    ingest: IntakeSettings = Field(default=IntakeSettings(), description="Taking files in.")
    epochs: Path = Field(
        default=Path("/epochs/in"), description="Folder of epoch files: `peer/source/epoch`."
    )
    fifo: Path = Field(default=Path("/notices/fifo"), description="Where files are announced.")
    alive: Path = Field(
        default=Path("/run/kme/alive"), description="File that is touched while all is well."
    )


async def run_watcher(settings: WatcherSettings, stop: asyncio.Event) -> None:
    """Take in what is announced until `stop`.

    Raises
    ------
    KmeError
        If it cannot begin: a folder, a certificate or a FIFO that cannot be used.
    """
    settings.alive.unlink(missing_ok=True)
    feeds = [
        Feed(link.peer, link.source, make_shared(settings.epochs, link.peer, link.source))
        for link in settings.links
    ]
    access = VaultAccess(
        settings.vault.url,
        settings.vault.ca,
        CredentialFiles(settings.vault.certificate, settings.vault.key),
        _ROLE,
        settings.vault.timeout_s,
    )
    async with _store(KmeId(settings.id), access, settings.ingest.parallel, stop) as store:
        if store is not None:
            await _watch(settings, feeds, store, stop)


async def _watch(
    settings: WatcherSettings, feeds: Sequence[Feed], store: InboxStore, stop: asyncio.Event
) -> None:
    """Listen and take in until `stop`."""
    intake = Intake(Ingest(store, SystemClock()), settings.ingest.parallel)
    listener = NoticeListener(NoticeFifo(settings.fifo), intake, feeds)

    def is_well() -> bool:
        return listener.is_listening and not intake.is_held_up

    _logger.info("waits for epoch files", extra={"fifo": str(settings.fifo)})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.run(stop), name="listener")
        # Behind the listener: the file says that the FIFO is there.
        tasks.create_task(stay_alive(settings.alive, is_well, stop), name="alive")
    _logger.info("stopped")


@asynccontextmanager
async def _store(
    kme: KmeId, access: VaultAccess, n_threads: int, stop: asyncio.Event
) -> AsyncIterator[VaultStore | None]:
    """Open the store, however long Vault is away; None if `stop` was first."""
    async with AsyncExitStack() as stack:
        session = VaultSession(access, n_threads)
        stack.push_async_callback(session.close)
        documents = Documents(session)
        key = None
        if await _persist(lambda: _opened(session), stop):
            key = await _persist(lambda: _digest_key(documents), stop)
        if key is None:
            yield None
            return
        store = await VaultStore.open(kme, documents, key)
        stack.push_async_callback(store.close)
        yield store


async def _persist(ask: Callable[[], Awaitable[_T]], stop: asyncio.Event) -> _T | None:
    """Ask Vault until it answers, more and more seldom; None if `stop` was first."""
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        try:
            return await ask()
        except UnavailableError as error:
            _logger.warning(
                "Vault cannot be used yet", extra={"reason": str(error), "again_in_s": pause_s}
            )
        await pause(stop, pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return None


async def _opened(session: VaultSession) -> bool:
    await session.open()
    return True


async def _digest_key(documents: Documents) -> Secret:
    """Return the site's key for digests of final keys.

    Raises
    ------
    SettingsError
        If it isn't there, or isn't one.
    """
    document = await documents.read("site/digest-key")
    if document is None:
        raise SettingsError("Vault holds no site/digest-key: run `make init` again, it resumes")
    try:
        key = base64.b64decode(document.data["key"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise SettingsError("site/digest-key in Vault is no base64 text") from error
    return Secret(key)


def main() -> None:
    """Run the watcher as its environment says."""
    serve("watcher", WatcherSettings, run_watcher)
