"""Documents that fail at a chosen write, in each way that a network and a kill can make them.

To forget a document counts as a write.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any, TypeVar

from kme.errors import ConflictError, StoreUnavailableError
from kme.store.vault.cell import DocumentStore
from kme.vault.documents import Document

_T = TypeVar("_T")


class Fault(Enum):
    """What becomes of the write that fails; its caller is told the same in all cases."""

    LOST = auto()
    """It is never executed."""
    UNHEARD = auto()
    """It is executed, and the answer is lost."""
    LATE = auto()
    """It is executed just before the next write."""
    VERY_LATE = auto()
    """It is executed when all is over (`land`)."""


class FaultyDocuments:
    """Documents under a prefix of their own, with one fault.

    Parameters
    ----------
    documents
        What they are kept in.
    prefix
        Put before all paths.
    at
        Which write fails, from 0.
    fault
        How it fails.
    kills
        Whether nothing works any more after it, until `revive`.
    """

    def __init__(
        self,
        documents: DocumentStore,
        prefix: str,
        at: int = -1,
        fault: Fault = Fault.LOST,
        kills: bool = False,
    ) -> None:
        self._documents = documents
        self._prefix = prefix
        self._at, self._fault, self.kills = at, fault, kills
        self._late: Callable[[], Awaitable[object]] | None = None
        self.n_writes = 0
        self.is_dead = False

    def revive(self) -> None:
        """Let a new process use them."""
        self.is_dead = False

    async def land(self) -> None:
        """Let the late write happen now."""
        late, self._late = self._late, None
        if late is not None:
            try:
                await late()
            except ConflictError:
                return

    async def read(self, path: str) -> Document | None:
        self._check()
        return await self._documents.read(self._prefix + path)

    async def names(self, path: str) -> list[str]:
        self._check()
        return await self._documents.names(self._prefix + path)

    async def forget(self, path: str) -> None:
        await self._change(lambda: self._documents.forget(self._prefix + path))

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        told = dict(data)
        return await self._change(lambda: self._documents.write(self._prefix + path, told, version))

    async def _change(self, act: Callable[[], Awaitable[_T]]) -> _T:
        self._check()
        number = self.n_writes
        self.n_writes += 1
        if number != self._at:
            if self._fault is Fault.LATE:
                await self.land()
            return await act()
        if self.kills:
            self.is_dead = True
        if self._fault is Fault.UNHEARD:
            await act()
        elif self._fault is not Fault.LOST:
            self._late = act
        raise StoreUnavailableError("a fault")

    def _check(self) -> None:
        if self.is_dead:
            raise StoreUnavailableError("this process was killed")
