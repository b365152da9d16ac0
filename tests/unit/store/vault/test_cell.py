"""One document, many writers: what was refused leaves no trace, what is in doubt is undone."""

import asyncio
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from faulty_documents import Fault, FaultyDocuments
from kme.errors import ConflictError, InputError, StoreUnavailableError
from kme.store.vault.cell import MAX_AT_ONCE, Cell, Cells, all_of
from memory_documents import MemoryDocuments
from store_contract import in_loop


@dataclass
class Names:
    """A document of names."""

    names: list[str] = field(default_factory=list)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        return cls(list(data.get("names", [])))

    def to_data(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    def add(self, name: str) -> int:
        if name in self.names:
            raise InputError(f"{name} is there")
        self.names.append(name)
        return len(self.names)

    def remove(self, name: str) -> None:
        if name in self.names:
            self.names.remove(name)


def adds(cell: Cell[Names], name: str) -> Any:
    return cell.change(lambda s: s.add(name), undo=lambda s: s.remove(name))


class Busy(MemoryDocuments):
    """Documents that somebody else always wrote first."""

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        raise ConflictError(path)


class TestChanges:
    @in_loop
    async def test_that_wait_together_share_a_write(self) -> None:
        documents = FaultyDocuments(MemoryDocuments(), "")
        cell = Cell(documents, "names", Names)
        got = await asyncio.gather(*(adds(cell, f"n{i}") for i in range(50)))
        assert sorted(got) == list(range(1, 51))
        assert documents.n_writes <= 2

    @in_loop
    async def test_that_are_refused_leave_the_others_alone(self) -> None:
        cell = Cell(MemoryDocuments(), "names", Names)
        got = await asyncio.gather(*(adds(cell, n) for n in "aba"), return_exceptions=True)
        assert got[:2] == [1, 2]
        assert isinstance(got[2], InputError)
        assert (await cell.read()).names == ["a", "b"]

    @pytest.mark.parametrize("seed", range(5))
    @in_loop
    async def test_of_several_processes_all_count(self, seed: int) -> None:
        documents = MemoryDocuments(seed)
        cells = [Cell(documents, "names", Names) for _ in range(3)]
        await asyncio.gather(*(adds(cells[i % 3], f"n{i}") for i in range(60)))
        assert len((await cells[0].read()).names) == 60

    @in_loop
    async def test_a_refusal_is_not_judged_on_what_is_old(self) -> None:
        documents = MemoryDocuments()
        one, two = Cell(documents, "names", Names), Cell(documents, "names", Names)
        await adds(one, "a")
        await two.change(lambda s: s.remove("a"))
        assert await adds(one, "a") == 1

    @in_loop
    async def test_give_up_when_others_always_write_first(self) -> None:
        with pytest.raises(StoreUnavailableError, match="others wrote first"):
            await adds(Cell(Busy(), "names", Names), "a")

    @in_loop
    async def test_an_error_of_our_own_reaches_all_who_wait(self) -> None:
        cell = Cell(MemoryDocuments(), "names", Names)

        def wrong(state: Names) -> None:
            raise ZeroDivisionError

        got = await asyncio.gather(cell.change(wrong), adds(cell, "a"), return_exceptions=True)
        assert [type(one) for one in got] == [ZeroDivisionError, ZeroDivisionError]
        assert await adds(cell, "b") == 1


class TestDoubt:
    @pytest.mark.parametrize("fault", list(Fault))
    @in_loop
    async def test_a_change_whose_outcome_is_unknown_is_undone_by_the_next(
        self, fault: Fault
    ) -> None:
        documents = FaultyDocuments(MemoryDocuments(), "", 1, fault)
        cell = Cell(documents, "names", Names)
        await adds(cell, "a")
        with pytest.raises(StoreUnavailableError):
            await adds(cell, "lost")
        await adds(cell, "b")
        assert cell.is_idle
        await documents.land()
        assert (await cell.read()).names == ["a", "b"]

    @in_loop
    async def test_a_change_that_nobody_waits_for_any_more_is_undone(self) -> None:
        cell = Cell(MemoryDocuments(3), "names", Names)
        waiting = asyncio.create_task(adds(cell, "gone"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await cell.settled()
        assert (await cell.read()).names == ["gone"]
        await adds(cell, "b")
        assert (await cell.read()).names == ["b"]

    @in_loop
    async def test_who_waits_when_the_loop_stops_is_told(self) -> None:
        cell = Cell(MemoryDocuments(1), "names", Names)
        waiting = asyncio.create_task(adds(cell, "a"))
        for _ in range(2):  # until the write is under way
            await asyncio.sleep(0)
        assert cell._runner is not None
        cell._runner.cancel()
        with pytest.raises(StoreUnavailableError, match="stopping"):
            await waiting


class TestPeeking:
    @in_loop
    async def test_asks_once_and_shows_nothing_that_is_not_written(self) -> None:
        documents = MemoryDocuments()
        cell = Cell(documents, "names", Names)
        first = await cell.peek()
        assert first is not None
        assert first.names == []
        waiting = asyncio.create_task(adds(cell, "a"))
        for _ in range(2):  # until the write is under way
            await asyncio.sleep(0)
        assert await cell.peek() is None
        await waiting
        seen = await cell.peek()
        assert seen is not None
        assert seen.names == ["a"]


class TestManyCells:
    @in_loop
    async def test_idle_ones_are_let_go_and_busy_ones_kept(self) -> None:
        documents = FaultyDocuments(MemoryDocuments(), "", 0)
        cells = Cells(lambda name: Cell(documents, name, Names), most=2)
        in_doubt = cells["doubt",]
        with pytest.raises(StoreUnavailableError):
            await adds(in_doubt, "a")
        idle = cells["idle",]
        for name in "xyz":
            await adds(cells[name,], "a")
        assert cells["doubt",] is in_doubt
        assert cells["idle",] is not idle
        await cells.settled()


class TestSideBySide:
    @in_loop
    async def test_all_run_to_their_end_and_the_first_error_is_raised(self) -> None:
        running, most, ended = 0, 0, []

        async def call(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            ended.append(number)
            if number in {7, 9}:
                raise InputError(str(number))
            return number

        assert await all_of(*map(call, range(5))) == [0, 1, 2, 3, 4]
        with pytest.raises(InputError, match="7"):
            await all_of(*map(call, range(40)))
        assert len(ended) == 45
        assert most == MAX_AT_ONCE

    @in_loop
    async def test_calls_that_are_cancelled_before_their_turn_leave_nothing_behind(self) -> None:
        async def call() -> None:
            await asyncio.Event().wait()

        calls = [call() for _ in range(2 * MAX_AT_ONCE)]
        waiting = asyncio.create_task(all_of(*calls))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert all(inspect.getcoroutinestate(one) == inspect.CORO_CLOSED for one in calls)
