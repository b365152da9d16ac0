"""trust - this KME's bundle out, other KMEs' bundles in: shown, checked, believed or dropped."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from kme.appliance.connect import (
    MAX_BUNDLE_BYTES,
    Bundle,
    check_against_known,
    check_bundle,
    read_bundle,
    same_fingerprint,
)
from kme.appliance.operator.settings import OperatorSettings, vault_session
from kme.clock import SystemClock
from kme.errors import CredentialError, InputError
from kme.files import write_whole
from kme.ids import KmeId
from kme.registry.peers import PeerSite, forget_site, read_site, read_sites, write_site
from kme.registry.saes import SaeRegistry
from kme.vault.documents import Documents
from kme.vault.pki import Pki
from kme.vault.session import VaultSession

KME_MOUNT = "pki-kme"


def load_bundle(path: Path) -> Bundle:
    """Read a bundle from a file; ``-`` is standard input.

    Raises
    ------
    InputError
        If it cannot be read or is none.
    """
    try:
        if str(path) == "-":
            return read_bundle(sys.stdin.buffer.read(MAX_BUNDLE_BYTES + 1))
        with path.open("rb") as stream:
            return read_bundle(stream.read(MAX_BUNDLE_BYTES + 1))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


async def own_bundle(settings: OperatorSettings) -> Bundle:
    """Return what this KME's operator gives to others.

    Raises
    ------
    CredentialError
        If the root cannot be read.
    StoreUnavailableError
        If Vault can't be asked.
    """
    async with vault_session(settings, None) as session:
        authority = await Pki(session, KME_MOUNT).issuer()
    try:
        root = settings.vault.ca.read_text()
    except OSError as error:
        raise CredentialError(f"{settings.vault.ca}: cannot be read: {error.strerror}") from error
    host = settings.host
    return Bundle(
        kme=settings.kme,
        site=settings.site,
        peer_url=f"https://{host}:{settings.peer_port}",
        sae_url=f"https://{host}:{settings.sae_port}",
        ca=authority,
        root=root,
    )


async def check_offered(settings: OperatorSettings, bundle: Bundle, *, replaces: bool) -> None:
    """Return if a bundle may be believed once its fingerprint was compared.

    Raises
    ------
    InputError
        If it may not; the message says why.
    """
    check_bundle(bundle, settings.kme, settings.peers, datetime.now(UTC))
    async with vault_session(settings, "admin") as session:
        own_ca = await Pki(session, KME_MOUNT).issuer()
        sites = await read_sites(Documents(session))
    check_against_known(bundle, own_ca, sites, replaces=replaces)


def check_fingerprint(bundle: Bundle, told: str) -> None:
    """Return if the fingerprint that the other operator told is that of the bundle.

    Raises
    ------
    InputError
        If it isn't.
    """
    if not same_fingerprint(bundle.fingerprint(), told):
        raise InputError(
            "this is not the fingerprint that you were told: do not connect, and find out who"
            " changed the bundle on its way"
        )


async def connect(settings: OperatorSettings, bundle: Bundle) -> None:
    """Believe a bundle from now on.

    If its authority is another one than before, the KME was set up anew: what
    it said of its SAEs is forgotten, for it counts from the start again.

    Raises
    ------
    ConflictError
        If somebody else connected it just now.
    StoreUnavailableError
        If Vault can't be asked.
    InputError
        If Traefik's file cannot be written.
    """
    async with vault_session(settings, "admin") as session:
        documents = Documents(session)
        before = await read_site(documents, bundle.kme)
        await write_site(documents, bundle.to_site(SystemClock().now_s()))
        if before is None or before.ca != bundle.ca:
            await _forget_saes(settings, session, bundle.kme)
        await _tell_traefik(settings, session)


async def disconnect(settings: OperatorSettings, kme: KmeId) -> None:
    """Believe a KME no more.

    Raises
    ------
    InputError
        If it isn't connected, or Traefik's file cannot be written.
    StoreUnavailableError
        If Vault can't be asked.
    """
    async with vault_session(settings, "admin") as session:
        documents = Documents(session)
        if kme not in [site.kme for site in await read_sites(documents)]:
            raise InputError(f"KME {kme} is not connected")
        await forget_site(documents, kme)
        await _forget_saes(settings, session, kme)
        await _tell_traefik(settings, session)


async def sites(settings: OperatorSettings) -> list[PeerSite]:
    """Return which KMEs are connected."""
    async with vault_session(settings, "admin") as session:
        return await read_sites(Documents(session))


async def _forget_saes(settings: OperatorSettings, session: VaultSession, kme: KmeId) -> None:
    await SaeRegistry(settings.kme, Documents(session), SystemClock()).forget(kme)


async def _tell_traefik(settings: OperatorSettings, session: VaultSession) -> None:
    """Write whom Traefik lets speak TLS at the door for peers; nobody if no KME is connected."""
    path = settings.peers_ca
    if not path.parent.is_dir():
        return
    authorities = [site.ca for site in await read_sites(Documents(session))]
    if not authorities:
        nobody = path.with_name("nobody-ca.pem")
        try:
            authorities = [nobody.read_text()]
        except OSError as error:
            raise InputError(f"{nobody}: cannot be read: {error.strerror}") from error
    write_whole(path, "".join(authorities).encode(), 0o640)
