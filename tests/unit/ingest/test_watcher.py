"""Folders are looked into for ever: in order, in bounded steps, whatever lies in them."""

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingest_scene import FrozenClock, play, until
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.errors import StoreUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest import watcher as watcher_module
from kme.ingest.ingest import Feed, Ingest, IngestCounts
from kme.ingest.watcher import Watcher
from kme.secret import Secret
from kme.store.memory import MemoryStore

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
LINK, OTHER = SourceId("link"), SourceId("other")
NOW_EPOCH = Epoch(0xB0000002)


def write(directory: Path, epoch: int, n_bytes: int = 40) -> Path:
    final = FinalKeyFile(Epoch(epoch), 1, 8 * n_bytes, Secret(os.urandom(n_bytes)))
    return write_final_key(directory, final)


class Scene:
    """A store, one folder or two, and a watcher."""

    def __init__(self, tmp_path: Path, store: MemoryStore | None = None, batch: int = 64) -> None:
        self.store = store or MemoryStore(A)
        self.ingest = Ingest(self.store, FrozenClock(NOW_EPOCH))
        self.feeds = [Feed(B, LINK, tmp_path / "b"), Feed(C, OTHER, tmp_path / "c")]
        for feed in self.feeds:
            feed.directory.mkdir(exist_ok=True)
        self.watcher = Watcher(self.ingest, self.feeds, poll_interval_s=0.01, max_batch=batch)

    @property
    def counts(self) -> IngestCounts:
        return self.ingest.counts

    async def epochs(self) -> list[int]:
        return [e.ref.epoch.number for e in await self.store.inbox(B, LINK, None, 999)]


def test_a_look_takes_a_bounded_batch_oldest_first(tmp_path: Path) -> None:
    order: list[int] = []

    class NotingStore(MemoryStore):
        async def ingest(
            self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
        ) -> bool:
            order.append(epoch.number)
            return await super().ingest(peer, source, epoch, parts)

    async def story() -> None:
        scene = Scene(tmp_path, NotingStore(A), batch=3)
        feed = scene.feeds[0]
        # Local epochs turn over: 1ffff is older than 0.
        for epoch in (1, 0x1FFFF, 0, 0x1FFFE, 2):
            write(feed.directory, epoch)
        assert await scene.watcher.look(feed) == 3
        assert await scene.watcher.look(feed) == 2
        assert await scene.watcher.look(feed) == 0
        assert order == [0xAFFFFFFE, 0xAFFFFFFF, 0xB0000000, 0xB0000001, 0xB0000002]

    play(story)


def test_only_files_named_after_an_epoch_are_touched(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        feed = scene.feeds[0]
        others = [".partial-00000001-abcd", "0000001", "00000001.tmp", "0000000G", "README"]
        for name in others:
            (feed.directory / name).write_bytes(b"not mine")
        (feed.directory / "00000009").mkdir()
        (feed.directory / "aside").mkdir()
        (feed.directory / "aside" / "00000001").write_bytes(b"old")
        write(feed.directory, 5)
        assert await scene.watcher.look(feed) == 1
        left = {path.name for path in feed.directory.iterdir()}
        assert left == {*others, "00000009", "aside"}
        assert scene.counts == IngestCounts(n_ingested=1, n_bytes=40)

    play(story)


def test_a_bad_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        feed = scene.feeds[0]
        for epoch in range(5):
            write(feed.directory, epoch)
        (feed.directory / "00000000").write_bytes(b"garbage")
        os.mkfifo(feed.directory / "00000007")
        (feed.directory / "00000008").symlink_to("/dev/zero")
        assert await scene.watcher.look(feed) == 7
        assert len(await scene.epochs()) == 4
        assert scene.counts.n_bad == 3
        assert {path.name for path in feed.directory.iterdir()} == {"aside"}
        assert len(list((feed.directory / "aside").iterdir())) == 3

    play(story)


def test_what_a_killed_process_left_is_taken_in_with_the_others_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, batch=2)
        feed = scene.feeds[0]
        for epoch in (1, 2, 3):
            write(feed.directory, epoch)
        (feed.directory / "00000001").rename(feed.directory / ".given-00000001")
        assert await scene.watcher.look(feed) == 2
        assert {path.name for path in feed.directory.iterdir()} == {"00000003"}
        assert await scene.epochs() == [0xB0000001, 0xB0000002]

    play(story)


def test_a_file_that_is_stuck_is_tried_once_not_for_ever(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        feed = scene.feeds[0]
        (feed.directory / "00000001").write_bytes(b"garbage")
        (feed.directory / "aside").touch()
        for _ in range(3):
            assert await scene.watcher.look(feed) in {0, 1}
        assert scene.counts.n_stuck == 1
        # Somebody made room and brought the file again.
        (feed.directory / "aside").unlink()
        (feed.directory / "00000001").unlink()
        assert await scene.watcher.look(feed) == 0
        write(feed.directory, 1)
        assert await scene.watcher.look(feed) == 1
        assert scene.counts.n_ingested == 1

    play(story)


def test_the_watcher_takes_files_of_all_folders_as_they_come_until_it_is_stopped(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, batch=2)
        stop = asyncio.Event()
        running = asyncio.create_task(scene.watcher.run(stop))
        for epoch in range(7):
            write(scene.feeds[0].directory, epoch)
            write(scene.feeds[1].directory, epoch)
        await until(lambda: scene.counts.n_ingested == 14)
        write(scene.feeds[1].directory, 8)
        await until(lambda: scene.counts.n_ingested == 15)
        stop.set()
        await running
        write(scene.feeds[0].directory, 9)
        await asyncio.sleep(0.05)
        assert scene.counts.n_ingested == 15
        assert len(await scene.store.inbox(C, OTHER, None, 99)) == 8

    play(story)


def test_stopping_ends_a_look_after_the_file_under_way(tmp_path: Path) -> None:
    async def story() -> None:
        stop = asyncio.Event()

        async def pause(step: str) -> None:
            if step == "before ingest":
                stop.set()

        scene = Scene(tmp_path, MemoryStore(A, pause))
        for epoch in range(5):
            write(scene.feeds[0].directory, epoch)
        await scene.watcher.run(stop)
        assert scene.counts.n_ingested == 1
        assert len(list(scene.feeds[0].directory.iterdir())) == 4

    play(story)


def test_an_outage_of_the_store_is_waited_out_and_loses_no_file(tmp_path: Path) -> None:
    async def story() -> None:
        n_refused = 0

        async def pause(step: str) -> None:
            nonlocal n_refused
            if step == "before ingest" and n_refused < 4:
                n_refused += 1
                raise StoreUnavailableError("away")

        scene = Scene(tmp_path, MemoryStore(A, pause))
        for epoch in range(3):
            write(scene.feeds[0].directory, epoch)
        stop = asyncio.Event()
        running = asyncio.create_task(scene.watcher.run(stop))
        await until(lambda: scene.counts.n_ingested == 3)
        stop.set()
        await running
        assert scene.watcher.counts.n_outages == 4
        assert scene.watcher.counts.n_failures == 0
        assert await scene.epochs() == [0xB0000000, 0xB0000001, 0xB0000002]

    play(story)


def test_attempts_become_seldom_during_an_outage_but_never_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "_MAX_BACK_OFF_S", 0.08)
    times: list[float] = []

    async def story() -> None:
        async def pause(step: str) -> None:
            times.append(asyncio.get_running_loop().time())
            raise StoreUnavailableError("away")

        scene = Scene(tmp_path, MemoryStore(A, pause))
        write(scene.feeds[0].directory, 1)
        stop = asyncio.Event()
        running = asyncio.create_task(scene.watcher.run(stop))
        await until(lambda: len(times) >= 7)
        stop.set()
        await running

    play(story)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # 0.02, 0.04, 0.08, then 0.08 each; waiting may take longer on a busy machine, never less.
    assert all(gap > least for gap, least in zip(gaps, (0.018, 0.036, 0.07, 0.07), strict=False))
    assert sum(gaps[3:6]) < 3 * 2.0


def test_a_folder_that_is_not_there_does_not_hold_up_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.feeds[0].directory.rmdir()
        write(scene.feeds[1].directory, 1)
        stop = asyncio.Event()
        running = asyncio.create_task(scene.watcher.run(stop))
        await until(lambda: scene.counts.n_ingested == 1 and scene.watcher.counts.n_failures > 1)
        scene.feeds[0].directory.mkdir()
        write(scene.feeds[0].directory, 1)
        await until(lambda: scene.counts.n_ingested == 2)
        stop.set()
        await running
        assert caplog.messages[0] == "taking in failed"

    play(story)


def test_two_watchers_of_one_folder_take_each_file_once(tmp_path: Path) -> None:
    async def story() -> None:
        first = Scene(tmp_path)
        second = Scene(tmp_path, first.store)
        for epoch in range(60):
            write(first.feeds[0].directory, epoch)
        await asyncio.gather(
            first.watcher.look(first.feeds[0]), second.watcher.look(second.feeds[0])
        )
        assert first.counts.n_ingested + second.counts.n_ingested == 60
        assert len(await first.epochs()) == 60

    play(story)


def test_what_two_watchers_want_to_set_aside_lies_there_once(tmp_path: Path) -> None:
    async def story() -> None:
        first = Scene(tmp_path)
        second = Scene(tmp_path, first.store)
        folder = first.feeds[0].directory
        for epoch in range(30):
            (folder / f"{epoch:08x}").write_bytes(b"garbage")
        await asyncio.gather(
            first.watcher.look(first.feeds[0]), second.watcher.look(second.feeds[0])
        )
        assert len(list((folder / "aside").iterdir())) == 30
        assert {path.name for path in folder.iterdir()} == {"aside"}

    play(story)
