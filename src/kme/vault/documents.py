"""documents - JSON documents of Vault's KV version 2, written under check-and-set only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import hvac
from hvac import exceptions

from kme.errors import ConflictError
from kme.vault.failures import member_of, says_nothing_there
from kme.vault.session import VaultSession


@dataclass(frozen=True, slots=True)
class Document:
    """What lies at a path, and how often it was written.

    Parameters
    ----------
    data
        Its members; they may be secret and do not print.
    version
        What the next write must name.
    """

    data: Mapping[str, Any] = field(repr=False)
    version: int


class Documents:
    """The documents of one KV mount.

    A write names the version that it replaces, so of several writers just one
    wins. None is repeated: after a `StoreUnavailableError` it may have
    happened, or may happen still.

    Parameters
    ----------
    session
        Where requests go through.
    mount
        Name of the mount.
    """

    def __init__(self, session: VaultSession, mount: str = "kme") -> None:
        self._session = session
        self._mount = mount

    async def read(self, path: str) -> Document | None:
        """Return what lies at a path; None if nothing, or if it was deleted or destroyed.

        Raises
        ------
        StoreUnavailableError
            If that cannot be told now.
        """
        return await self._session.call(lambda client: self._read(client, path))

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        """Write if the document's version is (still) `version`, and return the new one.

        Parameters
        ----------
        path
            Where; letters, digits and ``-_./`` only.
        data
            Its new members, JSON.
        version
            The version to replace; 0 for a document that was never written.

        Raises
        ------
        ConflictError
            If it has another version: surely not written.
        InputError
            If `data` is not JSON or too large: surely not written.
        StoreUnavailableError
            If it may or may not have been written.
        """
        return await self._session.call(lambda client: self._write(client, path, data, version))

    async def names(self, path: str) -> list[str]:
        """Return what lies right under a path, in order; folders end in ``/``.

        Raises
        ------
        StoreUnavailableError
            If that cannot be told now.
        """
        return await self._session.call(lambda client: self._names(client, path))

    async def forget(self, path: str) -> None:
        """Remove all versions of a document and its metadata; nothing there is fine.

        Raises
        ------
        StoreUnavailableError
            If it may or may not have been removed.
        """
        await self._session.call(
            lambda client: client.secrets.kv.v2.delete_metadata_and_all_versions(
                path, mount_point=self._mount
            )
        )

    # In the session's threads

    def _read(self, client: hvac.Client, path: str) -> Document | None:
        try:
            answer = client.secrets.kv.v2.read_secret_version(
                path, mount_point=self._mount, raise_on_deleted_version=True
            )
        except exceptions.InvalidPath as error:
            if says_nothing_there(error):
                return None
            raise
        held = member_of(answer, "data")
        return Document(held["data"], held["metadata"]["version"])

    def _write(self, client: hvac.Client, path: str, data: Mapping[str, Any], version: int) -> int:
        try:
            answer = client.secrets.kv.v2.create_or_update_secret(
                path, dict(data), cas=version, mount_point=self._mount
            )
        except exceptions.Forbidden:
            # Who may only create is told "forbidden" where something lies already.
            if version != 0 or not self._is_there(client, path):
                raise
        else:
            written: int = member_of(answer, "data")["version"]
            return written
        raise ConflictError(f"{self._mount}/{path} was written before")

    def _is_there(self, client: hvac.Client, path: str) -> bool:
        """Return whether a document is seen at a path by its metadata."""
        try:
            client.secrets.kv.v2.read_secret_metadata(path, mount_point=self._mount)
        except (exceptions.Forbidden, exceptions.InvalidPath):
            return False
        return True

    def _names(self, client: hvac.Client, path: str) -> list[str]:
        try:
            answer = client.secrets.kv.v2.list_secrets(path, mount_point=self._mount)
        except exceptions.InvalidPath as error:
            if says_nothing_there(error):
                return []
            raise
        names: list[str] = member_of(answer, "data")["keys"]
        return names
