"""ports - what the registry needs of the place where its documents lie."""

from collections.abc import Mapping
from typing import Any, Protocol


class StoredDocument(Protocol):
    """What lies at a path."""

    @property
    def data(self) -> Mapping[str, Any]:
        """Its members."""

    @property
    def version(self) -> int:
        """What the next write must name; it grows with every write."""


class DocumentStore(Protocol):
    """Documents under check-and-set (`kme.vault.documents.Documents`)."""

    async def read(self, path: str) -> StoredDocument | None:
        """Return what lies at a path, if anything does."""
        ...

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        """Write if the version is still this one, 0 for none; `ConflictError` if it isn't."""
        ...

    async def names(self, path: str) -> list[str]:
        """List what lies right under a path."""
        ...

    async def forget(self, path: str) -> None:
        """Remove a document with all that is known of it."""
        ...
