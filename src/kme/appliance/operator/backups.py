"""backups - all that Vault holds out, as a file to keep; such a file in, Vault as it was then.

What goes out, and what is to go in, lies in the folder of issued things in between: there
it is checked whole before anybody relies on it.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from kme.appliance.operator.settings import OperatorSettings, vault_session
from kme.clock import SystemClock
from kme.errors import InputError, KmeError, StoreUnavailableError
from kme.pairing.heartbeat import random_token
from kme.registry.peers import read_sites
from kme.registry.saes import SaeRegistry
from kme.store.vault.restores import mark_restored
from kme.vault.documents import Documents
from kme.vault.snapshot_file import SnapshotFacts, check_snapshot
from kme.vault.snapshots import Snapshots

OUT_NAME: Final = ".backup"
"""Where a backup waits to be copied out. No SAE's folder begins with a dot."""

IN_NAME: Final = ".restore"
"""Where a backup waits to be put back."""

_PIECE_TIMEOUT_S: Final = 60.0
_REPLACED_TIMEOUT_S: Final = 120.0
_COPY_BYTES: Final = 1 << 20


class UnchangedError(KmeError):
    """A backup was not put back, and nothing was changed."""

    code = "unchanged"


class UnmarkedError(KmeError):
    """Vault may hold an older state that is not marked as one."""

    code = "unmarked"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom this KME believes.

    Parameters
    ----------
    saes
        Its SAEs that are not removed, with the serial numbers of their certificates.
    peers
        The KMEs that it is connected with.
    """

    saes: Mapping[str, frozenset[str]]
    peers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a restore undid of what operators had done since the backup.

    Parameters
    ----------
    saes_again
        SAEs of which certificates that were revoked are believed again.
    saes_gone
        SAEs that are not registered any more.
    peers_again
        KMEs that are connected again.
    peers_gone
        KMEs that are not connected any more.
    """

    saes_again: list[str]
    saes_gone: list[str]
    peers_again: list[str]
    peers_gone: list[str]


async def take(settings: OperatorSettings) -> SnapshotFacts:
    """Have Vault write a snapshot into the folder of issued things, and check it.

    Raises
    ------
    InputError
        If it cannot be written there.
    StoreUnavailableError
        If Vault can't be asked, or did not send all of it.
    """
    path = settings.issued / OUT_NAME
    try:
        async with vault_session(settings, "backup", _PIECE_TIMEOUT_S) as session:
            await Snapshots(session).take(path)
        return _checked(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def receive(settings: OperatorSettings, source: Path) -> SnapshotFacts:
    """Copy a backup into the folder of issued things, and check it; ``-`` is standard input.

    Raises
    ------
    InputError
        If it is no backup, or a damaged one, or cannot be copied.
    """
    path = settings.issued / IN_NAME
    try:
        if str(source) == "-":
            _copy(sys.stdin.buffer, path)
        else:
            with source.open("rb") as stream:
                _copy(stream, path)
        return check_snapshot(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{error.filename or path}: {error.strerror}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def put_back(settings: OperatorSettings) -> Changes:
    """Put Vault back to the backup that was received, and mark it as an older copy.

    Raises
    ------
    UnchangedError
        If that was not begun; the message says why.
    UnmarkedError
        If it may have been done, and is not marked.
    """
    path = settings.issued / IN_NAME
    try:
        before = await _trust(settings)
        await _replace(settings, path)
    except UnmarkedError:
        raise
    except KmeError as error:
        raise UnchangedError(f"{error.message}. Nothing was changed") from error
    finally:
        path.unlink(missing_ok=True)
    try:
        async with vault_session(settings, "admin") as session:
            await mark_restored(Documents(session), random_token())
    except KmeError as error:
        raise UnmarkedError(
            f"Vault holds the older state, which could not be marked: {error.message}"
        ) from error
    return changes(before, await _trust(settings))


async def _replace(settings: OperatorSettings, path: Path) -> None:
    check_snapshot(path)
    async with vault_session(settings, "restore", _PIECE_TIMEOUT_S) as session:
        snapshots = Snapshots(session)
        try:
            await snapshots.send(path)
            await snapshots.wait_until_replaced(_REPLACED_TIMEOUT_S)
        except InputError:
            raise
        except KmeError as error:
            raise UnmarkedError(f"Vault may hold the older state now, unmarked: {error}") from error


async def _trust(settings: OperatorSettings) -> Trust:
    async with vault_session(settings, "admin") as session:
        documents = Documents(session)
        saes = await SaeRegistry(settings.kme, documents, SystemClock()).own()
        peers = await read_sites(documents)
    active = {str(sae): frozenset(entry.serials) for sae, entry in saes.items() if entry.is_active}
    return Trust(active, frozenset(str(site.kme) for site in peers))


def changes(before: Trust, after: Trust) -> Changes:
    """Return what a restore undid, from whom was believed before and after it."""
    nothing: frozenset[str] = frozenset()
    again = {sae for sae, held in after.saes.items() if held - before.saes.get(sae, nothing)}
    return Changes(
        saes_again=sorted(again | (after.saes.keys() - before.saes.keys())),
        saes_gone=sorted(before.saes.keys() - after.saes.keys()),
        peers_again=sorted(after.peers - before.peers),
        peers_gone=sorted(before.peers - after.peers),
    )


def _checked(path: Path) -> SnapshotFacts:
    try:
        return check_snapshot(path)
    except InputError as error:
        raise StoreUnavailableError(
            "Vault did not send a whole backup: look at its log, and try again"
        ) from error


def _copy(stream: IO[bytes], path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, _COPY_BYTES)
