"""kme.ingest.notices: what is announced comes in, and so does what a lost word named."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ingest_scene import FrozenClock, play, until
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.epochs.notify import Notice, NoticeFifo, send
from kme.errors import InputError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest import notices as notices_module
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.intake import Intake
from kme.ingest.notices import NoticeListener
from kme.secret import Secret
from kme.store.memory import MemoryStore

A, B, LINK = KmeId("kme-a"), KmeId("kme-b"), SourceId("link")
NOW_EPOCH = 0xB0000000


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices_module, "_LOOK_S", 0.02)


class Scene:
    """A folder, a FIFO and a listener at work."""

    def __init__(self, tmp_path: Path, max_waiting: int = 4096) -> None:
        self.folder = tmp_path / "in"
        self.folder.mkdir(exist_ok=True)
        (tmp_path / "notices").mkdir(exist_ok=True)
        self.fifo = tmp_path / "notices" / "fifo"
        self.gate = asyncio.Event()
        self.gate.set()
        self.store = MemoryStore(A, self._pause)
        self.ingest = Ingest(self.store, FrozenClock(Epoch(NOW_EPOCH)))
        self.intake = Intake(self.ingest, 4, max_waiting)
        feeds = [Feed(B, LINK, self.folder)]
        self.listener = NoticeListener(NoticeFifo(self.fifo), self.intake, feeds)
        self.stop = asyncio.Event()

    async def _pause(self, step: str) -> None:
        if step == "before ingest":
            await self.gate.wait()

    async def begin(self) -> None:
        self.running = asyncio.create_task(self.listener.run(self.stop))
        await until(lambda: self.listener.is_listening and self.fifo.exists())
        await until(lambda: self.listener.counts.n_sweeps > 0)

    def write(self, *epochs: int) -> None:
        for epoch in epochs:
            key = Secret(os.urandom(40))
            write_final_key(self.folder, FinalKeyFile(Epoch(epoch), 1, 320, key))

    def say(self, *lines: bytes) -> None:
        with self.fifo.open("wb", buffering=0) as stream:
            for line in lines:
                stream.write(line)

    async def announce(self, *epochs: int) -> None:
        notices = [Notice(B, LINK, Epoch(epoch)) for epoch in epochs]
        await asyncio.to_thread(send, self.fifo, notices, 10.0)

    @property
    def n_in(self) -> int:
        return self.ingest.counts.n_ingested

    async def end(self) -> None:
        self.stop.set()
        await self.running


def test_what_is_announced_comes_in_and_what_is_not_waits(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.write(*range(20))
        for first in (0, 5, 10):  # three writers, one after another
            await scene.announce(*range(first, first + 5))
        await until(lambda: scene.n_in == 15)
        await asyncio.sleep(0.05)
        assert scene.n_in == 15
        assert len(list(scene.folder.iterdir())) == 5
        assert scene.listener.counts.n_heard == 15
        await scene.end()

    play(story)


def test_what_lies_there_at_the_start_comes_in_without_a_word(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.write(*range(5))
        await scene.begin()
        await until(lambda: scene.n_in == 5)
        await scene.end()

    play(story)


def test_what_a_killed_process_left_comes_in_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.write(*range(5))
        for epoch in (1, 3):
            name = Epoch(epoch).file_name
            (scene.folder / name).rename(scene.folder / f".given-{name}")
        await scene.begin()
        await until(lambda: scene.n_in == 5)
        await until(lambda: not list(scene.folder.iterdir()))
        await scene.end()

    play(story)


def test_a_word_in_many_copies_and_from_many_writers_brings_a_file_once(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.write(*range(10))
        await asyncio.gather(*(scene.announce(*range(10)) for _ in range(8)))
        await until(lambda: scene.n_in == 10 and scene.listener.counts.n_heard == 80)
        await until(lambda: scene.intake.is_idle)
        assert scene.ingest.counts.n_duplicates == scene.ingest.counts.n_bad == 0
        await scene.end()

    play(story)


@pytest.mark.parametrize("what", ["removed", "file", "link", "folder that is emptied"])
def test_a_fifo_that_is_lost_is_made_anew_and_no_file_with_it(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices_module, "_QUIET_S", 0.01)

    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.write(1)
        scene.fifo.unlink()
        if what == "file":
            scene.fifo.write_text("kme-b/link/00000001\n")
        elif what == "link":
            scene.fifo.symlink_to("/dev/zero")
        elif what.startswith("folder"):
            scene.fifo.mkdir()
            await until(lambda: not scene.listener.is_listening)
            scene.fifo.rmdir()
        await until(lambda: scene.n_in == 1)
        assert stat.S_ISFIFO(scene.fifo.lstat().st_mode)
        assert scene.listener.counts.n_fifo_lost == 1
        scene.write(2)
        await scene.announce(2)
        await until(lambda: scene.n_in == 2)
        await scene.end()

    play(story)


def test_a_word_that_garbage_ran_into_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices_module, "_QUIET_S", 0.01)

    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.write(1)
        scene.say(b"half a li", b"kme-b/link/00000001\n")
        await until(lambda: scene.n_in == 1)
        assert scene.listener.counts.n_garbage == 1
        assert "half a li" not in caplog.text
        await scene.end()

    play(story)


def test_garbage_is_counted_and_said_seldom_and_words_behind_it_are_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.write(3)
        for _ in range(50):
            await asyncio.to_thread(scene.say, os.urandom(500).replace(b"\n", b"x") + b"\n")
        outside = tmp_path / "secret"
        outside.write_text("x")
        scene.say(b"../../secret\n", b"/etc/passwd\n", b"kme-b/link/../../secret\n")
        scene.say(b"kme-b/other/00000003\n", b"kme-z/link/00000003\n", b"kme-b/link/00000003\n")
        await until(lambda: scene.n_in == 1)
        counts = scene.listener.counts
        assert (counts.n_garbage, counts.n_unknown, counts.n_heard) == (53, 2, 1)
        assert outside.exists()
        await until(lambda: scene.intake.is_idle)
        complaints = [r for r in caplog.records if "lines on the FIFO" in r.message]
        assert len(complaints) == 1
        assert len(caplog.text) < 2000
        await scene.end()

    play(story)


def test_links_and_devices_under_the_name_of_an_epoch_are_set_aside(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        (tmp_path / "secret").write_text("x")
        (scene.folder / "00000001").symlink_to(tmp_path / "secret")
        os.mkfifo(scene.folder / "00000002")
        await scene.announce(1, 2)
        await until(lambda: scene.ingest.counts.n_bad == 2)
        await until(lambda: scene.intake.is_idle)
        assert (tmp_path / "secret").read_text() == "x"
        assert {path.name for path in scene.folder.iterdir()} == {"aside"}
        await scene.end()

    play(story)


def test_while_the_queue_is_full_writers_wait_and_nothing_is_lost(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, max_waiting=5)
        await scene.begin()
        scene.gate.clear()
        n = 8000  # more than a pipe holds
        announcing = asyncio.create_task(scene.announce(*range(n)))
        scene.write(*range(0, n, 100))
        await asyncio.sleep(0.2)
        assert not announcing.done()
        assert scene.listener.counts.n_heard <= 5 + 4 + 1 + n  # it did not run ahead
        scene.gate.set()
        await announcing
        await until(lambda: scene.n_in == n // 100)
        await scene.end()

    play(story)


def test_a_folder_that_is_away_at_the_start_is_looked_at_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notices_module, "_QUIET_S", 0.01)

    async def story() -> None:
        scene = Scene(tmp_path)
        scene.folder.rmdir()
        scene.running = asyncio.create_task(scene.listener.run(scene.stop))
        await until(lambda: "folder cannot be read" in caplog.messages)
        scene.folder.mkdir()
        scene.write(1)
        await until(lambda: scene.n_in == 1)
        await scene.end()

    play(story)


def test_a_place_without_room_for_a_fifo_ends_it_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.fifo.parent.rmdir()
        with pytest.raises(InputError, match="the FIFO cannot be made"):
            await scene.listener.run(scene.stop)

    play(story)


def test_when_it_is_stopped_files_under_way_are_finished_and_the_fifo_stays(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.begin()
        scene.gate.clear()
        scene.write(1)
        await scene.announce(1)
        await until(lambda: not scene.intake.is_idle)
        await asyncio.sleep(0.02)
        scene.stop.set()
        await asyncio.sleep(0.02)
        scene.gate.set()
        await scene.running
        assert scene.n_in == 1
        assert scene.fifo.exists()

    play(story)
