"""kme.ingest.intake: each announced file once, several at once, none lost in an outage."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest

from ingest_scene import FrozenClock, play, until
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.errors import StoreUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest import intake as intake_module
from kme.ingest.ingest import Feed, Ingest, Outcome
from kme.ingest.intake import Intake
from kme.secret import Secret
from kme.store.memory import MemoryStore

A, B, LINK = KmeId("kme-a"), KmeId("kme-b"), SourceId("link")


def write(directory: Path, epoch: int) -> Path:
    return write_final_key(directory, FinalKeyFile(Epoch(epoch), 1, 320, Secret(os.urandom(40))))


def n_files(directory: Path) -> int:
    return len(list(directory.iterdir()))


class Scene:
    """A store that a test may make slow or fail, a folder, and an intake at work."""

    def __init__(self, tmp_path: Path, parallel: int = 4, max_waiting: int = 4096) -> None:
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.order: list[str] = []
        self.n_under_way = self.most_under_way = 0
        self.store = MemoryStore(A, self._pause)
        self.ingest = Ingest(self.store, FrozenClock(Epoch(0xB0000002)))
        self.intake = Intake(self.ingest, parallel, max_waiting)
        self.feed = Feed(B, LINK, tmp_path)
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(self.intake.run(self.stop))

    async def _pause(self, step: str) -> None:
        if step != "before ingest":
            return
        self.n_under_way += 1
        self.most_under_way = max(self.most_under_way, self.n_under_way)
        try:
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
        finally:
            self.n_under_way -= 1

    async def announce(self, *epochs: int) -> None:
        for epoch in epochs:
            await self.intake.announce(self.feed, Epoch(epoch))

    @property
    def n_in(self) -> int:
        return self.ingest.counts.n_ingested

    async def end(self) -> None:
        self.stop.set()
        await self.running


def test_each_file_comes_in_once_however_often_it_is_announced(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        for epoch in range(30):
            write(tmp_path, epoch)
        for _ in range(10):
            await scene.announce(*range(30))
            await asyncio.sleep(0.001)
        await until(lambda: scene.n_in == 30 and scene.intake.is_idle)
        await scene.end()
        assert scene.ingest.counts.n_duplicates == 0
        assert scene.ingest.counts.n_bad == 0
        assert n_files(tmp_path) == 0

    play(story)


def test_so_many_are_taken_in_at_once_and_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, parallel=3)
        scene.gate.clear()
        for epoch in range(9):
            write(tmp_path, epoch)
        await scene.announce(*range(9))
        await until(lambda: scene.n_under_way == 3)
        await asyncio.sleep(0.05)
        assert scene.n_under_way == 3
        scene.gate.set()
        await until(lambda: scene.n_in == 9)
        assert scene.most_under_way == 3
        await scene.end()

    play(story)


def test_the_oldest_epoch_comes_first_over_a_turn_of_the_local_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        order: list[str] = []
        scene = Scene(tmp_path, parallel=1)
        take = scene.ingest.take

        async def noting(feed: Feed, path: Path) -> Outcome:
            order.append(path.name)
            return await take(feed, path)

        monkeypatch.setattr(scene.ingest, "take", noting)
        for epoch in (1, 0x1FFFF, 0):
            write(tmp_path, epoch)
        await scene.announce(1, 0x1FFFF, 0)
        await until(lambda: scene.n_in == 3)
        assert order == ["0001ffff", "00000000", "00000001"]
        await scene.end()

    play(story)


def test_whoever_announces_too_much_waits_and_nothing_is_dropped(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, parallel=1, max_waiting=3)
        scene.gate.clear()
        for epoch in range(20):
            write(tmp_path, epoch)
        announcing = asyncio.create_task(scene.announce(*range(20)))
        await asyncio.sleep(0.05)
        assert not announcing.done()
        assert len(scene.intake._waiting) == 3
        scene.gate.set()
        await announcing
        await until(lambda: scene.n_in == 20)
        await scene.end()

    play(story)


def test_a_file_that_comes_while_it_is_looked_for_in_vain_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        take, looked = scene.ingest.take, asyncio.Event()

        async def slow(feed: Feed, path: Path) -> Outcome:
            outcome = await take(feed, path)
            looked.set()
            await asyncio.sleep(0.02)
            return outcome

        monkeypatch.setattr(scene.ingest, "take", slow)
        await scene.announce(7)
        await looked.wait()
        write(tmp_path, 7)
        await scene.announce(7)
        await until(lambda: scene.n_in == 1)
        await scene.end()

    play(story)


def test_a_file_that_is_not_there_is_nobodys_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.announce(1, 2, 3)
        await until(lambda: scene.intake.is_idle)
        await scene.end()
        assert scene.ingest.counts.n_bad == 0
        assert caplog.records == []

    play(story)


def test_an_outage_is_waited_out_by_one_file_at_a_time_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_BACK_OFF_S", 0.01)
    monkeypatch.setattr(intake_module, "_MAX_BACK_OFF_S", 0.05)

    async def story() -> None:
        scene = Scene(tmp_path)
        for epoch in range(12):
            write(tmp_path, epoch)
        scene.fault = StoreUnavailableError("away")
        await scene.announce(*range(12))
        await until(lambda: scene.intake.is_held_up)
        await asyncio.sleep(0.05)
        scene.most_under_way = 0
        await asyncio.sleep(0.2)
        assert scene.most_under_way == 1
        assert n_files(tmp_path) == 12
        scene.fault = None
        await until(lambda: scene.n_in == 12)
        assert not scene.intake.is_held_up
        assert scene.intake.counts.n_outages == 1
        assert scene.ingest.counts.n_duplicates == 0
        await scene.end()

    play(story)


def test_attempts_become_seldom_during_an_outage_but_never_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "_FIRST_BACK_OFF_S", 0.02)
    monkeypatch.setattr(intake_module, "_MAX_BACK_OFF_S", 0.08)

    async def story() -> None:
        times: list[float] = []
        scene = Scene(tmp_path)

        async def away(feed: Feed, path: Path) -> Outcome:
            times.append(asyncio.get_running_loop().time())
            raise StoreUnavailableError("away")

        monkeypatch.setattr(scene.ingest, "take", away)
        write(tmp_path, 1)
        await scene.announce(1)
        await until(lambda: len(times) == 6)
        await scene.end()
        gaps = [after - before for before, after in itertools.pairwise(times)]
        least = (0.018, 0.036, 0.07, 0.07, 0.07)
        assert all(gap > limit for gap, limit in zip(gaps, least, strict=True))

    play(story)


def test_a_failure_that_nobody_foresaw_holds_up_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(intake_module, "_FAILED_AGAIN_S", 0.1)

    async def story() -> None:
        scene = Scene(tmp_path, parallel=1)
        take, is_broken = scene.ingest.take, True

        async def sometimes(feed: Feed, path: Path) -> Outcome:
            if path.name == "00000000" and is_broken:
                raise ValueError("what is this")
            return await take(feed, path)

        monkeypatch.setattr(scene.ingest, "take", sometimes)
        for epoch in range(3):
            write(tmp_path, epoch)
        await scene.announce(0, 1, 2)
        await until(lambda: scene.n_in == 2)
        assert scene.intake.counts.n_failures >= 1
        assert "taking in failed" in caplog.messages
        is_broken = False
        await until(lambda: scene.n_in == 3)
        await scene.end()

    play(story)


def test_a_file_that_may_be_unfinished_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "UNFINISHED_S", 0.01)

    async def story() -> None:
        scene = Scene(tmp_path)
        whole = write(tmp_path, 1)
        data = whole.read_bytes()
        whole.write_bytes(data[:20])
        now_s = whole.stat().st_mtime
        monkeypatch.setattr(FrozenClock, "now_s", lambda _self: now_s)
        await scene.announce(1)
        await asyncio.sleep(0.05)
        assert whole.exists()
        whole.write_bytes(data)
        await until(lambda: scene.n_in == 1)
        await scene.end()

    play(story)


def test_when_it_is_stopped_what_is_under_way_is_finished_and_the_rest_stays(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, parallel=2)
        scene.gate.clear()
        for epoch in range(6):
            write(tmp_path, epoch)
        await scene.announce(*range(6))
        await until(lambda: scene.n_under_way == 2)
        scene.stop.set()
        await asyncio.sleep(0.02)
        assert not scene.running.done()
        scene.gate.set()
        await scene.running
        assert scene.n_in == 2
        assert n_files(tmp_path) == 4

    play(story)


def test_stopping_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.fault = StoreUnavailableError("away")
        write(tmp_path, 1)
        await scene.announce(1)
        await until(lambda: scene.intake.is_held_up)
        async with asyncio.timeout(0.3):
            await scene.end()

    play(story)
