"""cell - changes to one document in, shared writes under check-and-set out."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from kme.errors import ConflictError, KmeError, StoreUnavailableError
from kme.vault.documents import Document

MAX_TRIES: Final = 64
"""So often a change is judged anew because somebody else wrote first."""

MAX_AT_ONCE: Final = 16
"""So many requests of one call are under way at the same time."""


class DocumentStore(Protocol):
    """What is needed of `kme.vault.documents.Documents`."""

    async def read(self, path: str) -> Document | None:
        """Return what lies at a path."""

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        """Replace just this version; return the new one."""

    async def names(self, path: str) -> list[str]:
        """List what lies under a path."""

    async def forget(self, path: str) -> None:
        """Remove a document for good."""


class State(Protocol):
    """What a document says, ready to be worked with."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document; an empty one stands for one never written."""

    def to_data(self) -> dict[str, Any]:
        """Return the document."""


_S = TypeVar("_S", bound=State)
_T = TypeVar("_T")


@dataclass(slots=True)
class _Held(Generic[_S]):
    """A document as it was last seen or written."""

    state: _S
    data: dict[str, Any]
    version: int
    is_fresh: bool


@dataclass(slots=True)
class _Change(Generic[_S]):
    """A change that waits for its turn."""

    act: Callable[[_S], object]
    undo: Callable[[_S], object] | None
    outcome: asyncio.Future[Any]


def busy(path: str) -> StoreUnavailableError:
    """Return the error about a document that others write all the time."""
    return StoreUnavailableError(f"{path}: others wrote first {MAX_TRIES} times: try again")


class Cell(Generic[_S]):
    """One document that several tasks and processes change.

    All changes that wait at the same moment are judged one after another and
    share one write, which names the version they were judged on. If somebody
    else wrote first, they are judged again. A lone writer needs no read: what
    it wrote last is what is there, and if it isn't, the write fails. A refusal
    counts only if the state it was judged on is proven by a write or was read
    after the change was asked for.

    After a write with unknown outcome its changes have failed, but it may land
    at any time until the next write succeeds. So what undoes them runs ahead of
    all other changes until then.

    Parameters
    ----------
    documents
        Where it lies.
    path
        Its path.
    kind
        What it says.
    prepare
        Awaited with the changed state before each write; may change it more.
    """

    def __init__(
        self,
        documents: DocumentStore,
        path: str,
        kind: type[_S],
        prepare: Callable[[_S], Awaitable[None]] | None = None,
    ) -> None:
        self.path = path
        self._documents = documents
        self._kind = kind
        self._prepare = prepare
        self._held: _Held[_S] | None = None
        self._waiting: list[_Change[_S]] = []
        self._undo: list[Callable[[_S], object]] = []
        self._runner: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Document | None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or left to undo."""
        return self._runner is None and not self._undo

    async def read(self) -> _S:
        """Return what the document says now, for the caller alone.

        Those who ask at the same moment share one request, which is sent after.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_for_all())
        found = await asyncio.shield(self._reading)
        return self._kind.from_data({} if found is None else found.data)

    async def _read_for_all(self) -> Document | None:
        await asyncio.sleep(0)
        self._reading = None  # whoever asks from now on wants to know what is there later
        return await self._documents.read(self.path)

    async def peek(self) -> _S | None:
        """Return what was last seen of it, to be looked at at once; None while it changes.

        Only the first look asks Vault.
        """
        if self._held is None and self._runner is None:
            held = await self._load()
            held.is_fresh = False
            self._keep(held)
            return held.state
        return None if self._held is None else self._held.state

    async def change(
        self, act: Callable[[_S], _T], undo: Callable[[_S], object] | None = None
    ) -> _T:
        """Change the document; the outcome is that of `act`.

        Parameters
        ----------
        act
            Changes the state, or raises a `KmeError` and leaves it alone. It may
            run several times, each time on another state.
        undo
            Takes it back if the write's outcome is unknown, or if nobody waits
            for it any more; does nothing to a state that doesn't show it.
        """
        outcome: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Change(act, undo, outcome))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await outcome

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        if self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        batch: list[_Change[_S]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                for change, outcome in zip(batch, await self._commit(batch), strict=True):
                    self._answer(change, outcome)
        except BaseException as error:
            for change in (*batch, *self._waiting):
                if not change.outcome.done():
                    change.outcome.set_exception(_told(error, self.path))
            self._waiting = []
            raise
        finally:
            self._runner = None

    def _answer(self, change: _Change[_S], outcome: object) -> None:
        if change.outcome.cancelled():
            if change.undo is not None:
                self._undo.append(change.undo)
        elif isinstance(outcome, BaseException):
            change.outcome.set_exception(outcome)
        else:
            change.outcome.set_result(outcome)

    async def _commit(self, batch: list[_Change[_S]]) -> list[object]:
        """Judge all and write once; return an outcome, or an error, for each."""
        try:
            for _ in range(MAX_TRIES):
                held = self._held or await self._load()
                self._held = None
                outcomes = await self._attempt(held, batch)
                if outcomes is not None:
                    return outcomes
        except KmeError as error:
            return [error] * len(batch)
        return [busy(self.path)] * len(batch)

    async def _attempt(self, held: _Held[_S], batch: list[_Change[_S]]) -> list[object] | None:
        """Judge all on one state and write it; None if it must be read again."""
        undone = len(self._undo)
        for undo in self._undo:
            undo(held.state)
        outcomes = [_outcome(change.act, held.state) for change in batch]
        data = held.state.to_data()
        if data == held.data:
            if not held.is_fresh:
                return None
            self._held = _Held(held.state, data, held.version, is_fresh=False)
            return outcomes
        if self._prepare is not None:
            await self._prepare(held.state)
            data = held.state.to_data()
        try:
            version = await self._documents.write(self.path, data, held.version)
        except ConflictError:
            return None
        except StoreUnavailableError:
            self._undo += [change.undo for change in batch if change.undo is not None]
            raise
        del self._undo[:undone]
        self._held = _Held(held.state, data, version, is_fresh=False)
        return outcomes

    def _keep(self, held: _Held[_S]) -> None:
        """Keep what was read aside, unless something is known by now."""
        if self._held is None and self._runner is None:
            self._held = held

    async def _load(self) -> _Held[_S]:
        found = await self._documents.read(self.path)
        data, version = ({}, 0) if found is None else (found.data, found.version)
        state = self._kind.from_data(data)
        return _Held(state, state.to_data(), version, is_fresh=True)


class Cells(Generic[_S]):
    """Cells by name; those not used for long are let go.

    Parameters
    ----------
    make
        Makes the cell of a name.
    most
        How many are kept if nothing is under way in them.
    """

    def __init__(self, make: Callable[..., Cell[_S]], most: int = 64) -> None:
        self._make = make
        self._most = most
        self._cells: OrderedDict[tuple[object, ...], Cell[_S]] = OrderedDict()

    def __getitem__(self, name: tuple[Any, ...]) -> Cell[_S]:
        cell = self._cells.get(name)
        if cell is None:
            cell = self._cells[name] = self._make(*name)
            self._trim()
        self._cells.move_to_end(name)
        return cell

    async def settled(self) -> None:
        """Wait until nothing is under way in any."""
        await asyncio.gather(*(cell.settled() for cell in self._cells.values()))

    def _trim(self) -> None:
        for name, cell in list(self._cells.items())[: -self._most]:
            if cell.is_idle:
                del self._cells[name]


async def all_of(*calls: Coroutine[Any, Any, _T]) -> list[_T]:
    """Run calls side by side, a bounded number at once, and wait for all; raise the first error."""
    turns = asyncio.Semaphore(MAX_AT_ONCE)

    async def in_turn(call: Coroutine[Any, Any, _T]) -> _T:
        async with turns:
            return await call

    try:
        found = await asyncio.gather(*map(in_turn, calls), return_exceptions=True)
    finally:
        for call in calls:
            call.close()  # who is cancelled before its turn has not begun
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]


def _outcome(act: Callable[[_S], object], state: _S) -> object:
    try:
        return act(state)
    except KmeError as error:
        return error


def _told(error: BaseException, path: str) -> Exception:
    """Return what those who wait are told when the loop stops or our own code is wrong."""
    if isinstance(error, Exception):
        return error
    return StoreUnavailableError(f"{path}: the store is stopping")
