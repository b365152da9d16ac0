"""snapshots - all that Vault holds out into one file, or back in from one; in pieces, encrypted."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import hvac
import requests
from hvac import exceptions

from kme.errors import InputError, StoreUnavailableError
from kme.vault.failures import says_token_is_dead
from kme.vault.session import VaultSession

_PIECE_BYTES: Final = 1 << 20
_FILE_MODE: Final = 0o600
_OTHER_KEYS: Final = "could not verify hash file"
_ABOUT_IT: Final = "snapshot"
_POLL_S: Final = 0.25


class Snapshots:
    """Snapshots of everything that one Vault holds.

    Parameters
    ----------
    session
        As a role that may read, or write, ``sys/storage/raft/snapshot``. Its
        time-out holds for each piece, not for the whole.
    """

    def __init__(self, session: VaultSession) -> None:
        self._session = session

    async def take(self, path: Path) -> None:
        """Write a snapshot to a file that only its owner may read.

        The caller checks what came (`kme.vault.snapshot_file`): an answer that
        Vault breaks off may look like one that ended.

        Raises
        ------
        InputError
            If the file cannot be written.
        StoreUnavailableError
            If Vault can't be asked, or its answer broke off.
        """
        await self._session.call(lambda client: _take(client, path))

    async def send(self, path: Path) -> None:
        """Give Vault an older snapshot of itself; what it holds is replaced soon after.

        Raises
        ------
        InputError
            If the file cannot be read; or Vault refuses it, for instance because
            another Vault made it: surely nothing is replaced.
        StoreUnavailableError
            If Vault may or may not have taken it.
        """
        await self._session.call(lambda client: _send(client, path))

    async def wait_until_replaced(self, timeout_s: float) -> None:
        """Return once Vault serves what the snapshot holds, to be called after `send`.

        Our token is younger than the snapshot: as soon as Vault does not know
        it, Vault serves the older state. Meanwhile it may be sealed.

        Raises
        ------
        StoreUnavailableError
            If it does not in time.
        """
        deadline = time.monotonic() + timeout_s
        await self._session.call(lambda client: _wait_until_replaced(client, deadline))


def _take(client: hvac.Client, path: Path) -> None:
    with closing(client.sys.take_raft_snapshot()) as answer, _files(path, "written"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), _FILE_MODE)
            for piece in answer.iter_content(_PIECE_BYTES):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _send(client: hvac.Client, path: Path) -> None:
    try:
        with _files(path, "read"), path.open("rb") as file:
            client.sys.restore_raft_snapshot(file)
    except (exceptions.InvalidRequest, exceptions.InternalServerError) as error:
        words = " ".join(" ".join(error.errors or ()).split())
        # It speaks of the snapshot only while it reads it, before it replaces anything.
        if _OTHER_KEYS not in words and _ABOUT_IT not in words:
            raise
    else:
        return
    # Out here, so that it does not chain to the exception that holds the request.
    if _OTHER_KEYS in words:
        words = "another Vault made it: it opens under other unseal shares than this one"
    raise InputError(f"Vault refuses this backup: {words}")


def _wait_until_replaced(client: hvac.Client, deadline: float) -> None:
    while time.monotonic() < deadline:
        try:
            client.auth.token.lookup_self()
        except exceptions.Forbidden as error:
            if says_token_is_dead(error):
                return
            raise
        except (exceptions.VaultError, requests.RequestException):
            pass  # it is just about it, or sealed
        time.sleep(_POLL_S)
    raise StoreUnavailableError(
        "Vault does not serve what the backup holds: look at its log and the unsealer's"
    )


@contextmanager
def _files(path: Path, what: str) -> Iterator[None]:
    """Tell errors of the file from those of the connection, which are of the same kind."""
    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be {what}: {error.strerror}") from error
