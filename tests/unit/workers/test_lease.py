"""At most one is elected, whatever happens to whoever was."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from kme.errors import ConflictError, SettingsError, StoreUnavailableError
from kme.workers.lease import Lease, LeaseTiming
from simulation import VirtualClock, run_virtual

TIMING = LeaseTiming(lease_s=2.0, renew_s=1.0, poll_s=0.5)


@dataclass(frozen=True)
class Found:
    data: Mapping[str, Any]
    version: int


@dataclass
class Documents:
    """One document under check-and-set, and a line to it that can be cut."""

    found: Found | None = None
    cut: set[str] = field(default_factory=set)
    loses_answers: bool = False
    n_writes: int = 0

    def seen_by(self, name: str) -> "Line":
        return Line(self, name)


@dataclass
class Line:
    documents: Documents
    name: str

    async def read(self, path: str) -> Found | None:
        await self._travel()
        assert path == "lease"
        return self.documents.found

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        await self._travel()
        found = self.documents.found
        if version != (found.version if found else 0):
            raise ConflictError("written before")
        self.documents.found = Found(dict(data), version + 1)
        self.documents.n_writes += 1
        if self.documents.loses_answers:
            raise StoreUnavailableError("no answer")
        return version + 1

    async def _travel(self) -> None:
        await asyncio.sleep(0.01)
        if self.name in self.documents.cut:
            await asyncio.sleep(0.3)
            raise StoreUnavailableError("cut off")


@dataclass
class Loops:
    """What the elected one does: who does it, from when until when."""

    clock: VirtualClock
    leading: list[str] = field(default_factory=list)
    history: list[tuple[str, float]] = field(default_factory=list)

    def of(self, name: str) -> Callable[[], Awaitable[None]]:
        async def lead() -> None:
            self.history.append((name, self.clock.monotonic_s()))
            self.leading.append(name)
            assert len(self.leading) == 1, "two lead at the same time"
            try:
                await asyncio.Event().wait()
            finally:
                self.leading.remove(name)

        return lead


@dataclass
class Candidates:
    clock: VirtualClock
    documents: Documents = field(default_factory=Documents)

    def __post_init__(self) -> None:
        self.loops = Loops(self.clock)

    def start(self, name: str, instance: str | None = None) -> "asyncio.Task[None]":
        lease = Lease(self.documents.seen_by(name), self.clock, TIMING)
        return asyncio.create_task(lease.run(instance or name, self.loops.of(name)))


async def end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_of_several_candidates_one_is_elected_and_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        tasks = [candidates.start(name) for name in ("a", "b", "c")]
        await clock.sleep(60)
        assert len(candidates.loops.history) == 1
        await end(*tasks)

    run_virtual(main)


def test_whoever_stops_cleanly_is_followed_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        first = candidates.start("a")
        await clock.sleep(3)
        second = candidates.start("b")
        await clock.sleep(3.1)
        assert candidates.loops.leading == ["a"]
        await end(first)
        stopped_s = clock.monotonic_s()
        await clock.sleep(2)
        assert candidates.loops.history[-1][0] == "b"
        assert candidates.loops.history[-1][1] - stopped_s < 0.6
        await end(second)

    run_virtual(main)


def test_whoever_dies_is_followed_within_five_seconds_and_not_before_its_lease_is_over() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        candidates.documents.found = Found({"holder": "dead", "instance": "x", "counter": 7}, 7)
        task = candidates.start("b")
        begun_s = clock.monotonic_s()
        await clock.sleep(10)
        ((_, elected_s),) = candidates.loops.history
        assert TIMING.lease_s < elected_s - begun_s < 5
        await end(task)

    run_virtual(main)


def test_a_dead_one_of_the_same_instance_is_followed_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        candidates.documents.found = Found({"holder": "dead", "instance": "here", "counter": 7}, 7)
        task = candidates.start("b", "here")
        await clock.sleep(0.1)
        assert candidates.loops.leading == ["b"]
        await end(task)

    run_virtual(main)


def test_whoever_cannot_renew_stops_before_another_one_starts() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        first = candidates.start("a")
        await clock.sleep(1)
        second = candidates.start("b")
        await clock.sleep(3)
        candidates.documents.cut.add("a")
        cut_s = clock.monotonic_s()
        while candidates.loops.leading == ["a"]:
            await clock.sleep(0.01)
        assert candidates.loops.leading == [], "the lease is over by its own clock"
        assert clock.monotonic_s() - cut_s <= TIMING.lease_s
        await clock.sleep(5)
        assert candidates.loops.leading == ["b"]
        assert candidates.loops.history[-1][1] - cut_s < 6
        candidates.documents.cut.clear()
        await clock.sleep(10)
        assert candidates.loops.leading == ["b"], "who comes back does not disturb"
        await end(first, second)

    run_virtual(main)


def test_an_outage_of_the_store_ends_it_for_all_and_heals_by_itself() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        tasks = [candidates.start(name) for name in ("a", "b")]
        await clock.sleep(3)
        candidates.documents.cut |= {"a", "b"}
        await clock.sleep(30)
        assert candidates.loops.leading == []
        candidates.documents.cut.clear()
        await clock.sleep(6)
        assert len(candidates.loops.leading) == 1
        await end(*tasks)

    run_virtual(main)


def test_a_short_outage_changes_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        task = candidates.start("a")
        await clock.sleep(2.2)
        candidates.documents.cut.add("a")
        await clock.sleep(0.9)
        candidates.documents.cut.clear()
        await clock.sleep(5)
        assert [name for name, _ in candidates.loops.history] == ["a"]
        await end(task)

    run_virtual(main)


def test_a_renewal_whose_answer_was_lost_counts_once_it_is_seen() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        task = candidates.start("a")
        await clock.sleep(1.5)
        candidates.documents.loses_answers = True
        await clock.sleep(0.6)
        candidates.documents.loses_answers = False
        await clock.sleep(5)
        assert [name for name, _ in candidates.loops.history] == ["a"]
        await end(task)

    run_virtual(main)


def test_whoever_sees_another_one_elected_stops_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        task = candidates.start("a")
        await clock.sleep(1)
        found = candidates.documents.found
        assert found is not None
        usurper = {"holder": "x", "instance": "x", "counter": 99}
        candidates.documents.found = Found(usurper, found.version + 1)
        await clock.sleep(1.2)
        assert candidates.loops.leading == []
        await end(task)

    run_virtual(main)


def test_loops_that_fail_give_the_lease_up_and_are_tried_again() -> None:
    async def main(clock: VirtualClock) -> None:
        documents, n_tries = Documents(), 0

        async def lead() -> None:
            nonlocal n_tries
            n_tries += 1
            if n_tries < 3:
                raise SettingsError("port in use")
            await asyncio.Event().wait()

        task = asyncio.create_task(Lease(documents.seen_by("a"), clock, TIMING).run("a", lead))
        await clock.sleep(10)
        assert n_tries == 3
        await end(task)
        assert documents.found is not None
        assert documents.found.data["holder"] == ""

    run_virtual(main)


def test_it_costs_one_write_a_second_and_others_only_read() -> None:
    async def main(clock: VirtualClock) -> None:
        candidates = Candidates(clock)
        tasks = [candidates.start(name) for name in ("a", "b")]
        await clock.sleep(60)
        assert candidates.documents.n_writes <= 61
        await end(*tasks)

    run_virtual(main)


def test_random_cuts_never_make_two_lead() -> None:
    async def main(clock: VirtualClock) -> None:
        import random

        chance = random.Random(7)
        candidates = Candidates(clock)
        tasks = [candidates.start(name) for name in ("a", "b", "c")]
        for _ in range(400):
            candidates.documents.cut = {n for n in "abc" if chance.random() < 0.4}
            candidates.documents.loses_answers = chance.random() < 0.2
            await clock.sleep(chance.random() * 4)
            if chance.random() < 0.2:
                victim = chance.randrange(3)
                await end(tasks[victim])
                tasks[victim] = candidates.start("abc"[victim])
            with suppress(IndexError):
                assert len(candidates.loops.leading) <= 1
        assert not any(task.done() for task in tasks)
        assert len(candidates.loops.history) > 20
        await end(*tasks)

    run_virtual(main)


@pytest.mark.parametrize(
    "times", [(1.0, 1.0, 0.5), (1.0, 2.0, 0.5), (2.0, 1.0, 0.0), (2.0, 0.0, 1.0)]
)
def test_a_lease_that_ends_before_its_renewal_is_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError):
        LeaseTiming(*times)
