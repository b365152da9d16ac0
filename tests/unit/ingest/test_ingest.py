"""Files come in exactly once; bad ones are set aside; nothing is removed before it is stored."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import pytest

from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.errors import InboxFullError, InputError, StoreUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.ingest import Feed, Ingest, IngestCounts, Outcome, split
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import PART_BYTES, FinalKey, FinalKeyRef
from kme.store.sqlite import SqliteStore

A, B, LINK = KmeId("kme-a"), KmeId("kme-b"), SourceId("link")
NOW_EPOCH = Epoch(0xB0004F90)
T7 = Path(__file__).parents[2] / "vectors" / "qcrypto" / "A_guardian_rates" / "hec" / "t7"


class FrozenClock:
    """It is always the same moment, long before any file here was written."""

    def now_s(self) -> float:
        return NOW_EPOCH.number * 2**29 / 1e9 + 0.1

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


class YoungClock(FrozenClock):
    """Every file here was written just now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now_s(self) -> float:
        return self._path.lstat().st_mtime + 1.0


def write(directory: Path, key: bytes, epoch: int = 0x4F87, n_bits: int | None = None) -> Path:
    size_bits = 8 * len(key) if n_bits is None else n_bits
    return write_final_key(directory, FinalKeyFile(Epoch(epoch), 4, size_bits, Secret(key)))


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


class Stage:
    """A store, an ingest and a folder."""

    def __init__(self, directory: Path, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore(A)
        self.ingest = Ingest(self.store, FrozenClock())
        self.feed = Feed(B, LINK, directory)

    async def take(self, path: Path) -> Outcome:
        return await self.ingest.take(self.feed, path)

    async def keys(self) -> list[FinalKey]:
        entries = await self.store.inbox(B, LINK, None, 1000)
        return await self.store.final_keys(B, [entry.ref for entry in entries])


def play(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(story())


def test_a_file_becomes_a_final_key_under_its_universal_epoch_and_is_removed(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        assert await stage.take(write(tmp_path, b"0123456789")) is Outcome.INGESTED
        ref = FinalKeyRef(LINK, Epoch(0xB0004F87))
        assert await stage.keys() == [FinalKey(ref, Secret(b"0123456789"))]
        assert names(tmp_path) == []
        assert stage.ingest.counts == IngestCounts(n_ingested=1, n_bytes=10)

    play(story)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0x04F90, 0xB0004F90),
        (0x14F8F, 0xB0014F8F),
        (0x14F90, 0xAFFF4F90),
        (0x1FFFF, 0xAFFFFFFF),
        (0x00000, 0xB0000000),
        (0xB0004F87, 0xB0004F87),
        (0xC7000000, 0xC7000000),
    ],
)
def test_the_universal_epoch_is_the_nearest_one(tmp_path: Path, epoch: int, expected: int) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        await stage.take(write(tmp_path, b"01234567", epoch))
        (key,) = await stage.keys()
        assert key.ref.epoch == Epoch(expected)
        assert abs(expected - NOW_EPOCH.number) <= 1 << 16 or epoch >= 1 << 17

    play(story)


def test_only_whole_bytes_of_the_key_are_kept(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        await stage.take(write(tmp_path, b"01\xfe", n_bits=23))
        assert [key.key for key in await stage.keys()] == [Secret(b"01")]

    play(story)


@pytest.mark.parametrize(
    ("n_bytes", "parts"),
    [
        (0, []),
        (1, [1]),
        (PART_BYTES, [PART_BYTES]),
        (PART_BYTES + 1, [PART_BYTES, 1]),
        (3 * PART_BYTES, [PART_BYTES] * 3),
    ],
)
def test_a_long_key_is_split_and_loses_nothing(n_bytes: int, parts: list[int]) -> None:
    key = os.urandom(n_bytes)
    cut = split(FinalKeyFile(Epoch(1), 1, 8 * n_bytes, Secret(key)))
    assert [len(part) for part in cut] == parts
    assert b"".join(part.reveal() for part in cut) == key


@pytest.mark.parametrize("n_bits", [0, 7])
def test_an_empty_key_is_removed_with_a_note(
    tmp_path: Path, n_bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story() -> None:
        stage = Stage(tmp_path)
        path = write(tmp_path, b"\2" if n_bits else b"", n_bits=n_bits)
        assert await stage.take(path) is Outcome.EMPTY
        assert names(tmp_path) == []
        assert await stage.keys() == []
        assert stage.ingest.counts == IngestCounts(n_empty=1)
        assert caplog.messages == ["empty final key removed"]

    play(story)


def test_every_file_of_a_set_delivered_twice_is_taken_once(tmp_path: Path) -> None:
    files = sorted(T7.iterdir())
    assert len(files) == 4

    async def story() -> None:
        stage = Stage(tmp_path)
        for outcome in (Outcome.INGESTED, Outcome.DUPLICATE):
            for source in files:
                path = Path(shutil.copy(source, tmp_path))
                assert await stage.take(path) is outcome
        keys = await stage.keys()
        assert len(keys) == 4
        assert stage.ingest.counts.n_ingested == 4
        assert stage.ingest.counts.n_duplicates == 4
        # Nothing is lost: what was refused lies aside as it came.
        assert names(tmp_path) == ["aside", *(f"aside/{source.name}" for source in files)]
        for source in files:
            assert (tmp_path / "aside" / source.name).read_bytes() == source.read_bytes()

    play(story)


def test_a_duplicate_with_other_bytes_is_kept_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        await stage.take(write(tmp_path, b"first..."))
        assert await stage.take(write(tmp_path, b"second..")) is Outcome.DUPLICATE
        assert [key.key for key in await stage.keys()] == [Secret(b"first...")]
        assert b"second" in b"".join(
            bytes(word[::-1]) for word in _words((tmp_path / "aside" / "00004f87").read_bytes())
        )
        assert "the bytes may differ" in caplog.messages[0]

    play(story)


def _words(data: bytes) -> list[bytes]:
    return [data[begin : begin + 4] for begin in range(0, len(data), 4)]


class DyingStore(MemoryStore):
    """Its process dies right behind the commit."""

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        await super().ingest(peer, source, epoch, parts)
        raise StoreUnavailableError("died")


def test_a_crash_between_commit_and_removal_takes_the_file_once(tmp_path: Path) -> None:
    async def story() -> None:
        dying = DyingStore(A)
        stage = Stage(tmp_path, dying)
        path = write(tmp_path, b"01234567")
        with pytest.raises(StoreUnavailableError):
            await stage.take(path)
        assert names(tmp_path) == [".given-00004f87"]
        after = Stage(tmp_path, dying.reopened())
        assert await after.take(path) is Outcome.INGESTED
        assert len(await after.keys()) == 1
        assert names(tmp_path) == []

    play(story)


def test_a_store_that_is_away_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        await stage.store.close()
        path = write(tmp_path, b"01234567")
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await stage.take(path)
            assert names(tmp_path) == ["00004f87"]
        assert stage.ingest.counts == IngestCounts()

    play(story)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(100))


def _wrong_type(path: Path) -> None:
    path.write_bytes(b"\3" + path.read_bytes()[1:])


def _oversized(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(1 << 34)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_truncated, _garbage, _wrong_type, _oversized, _link, _empty])
def test_a_bad_file_is_set_aside_with_its_place_in_the_log(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        path = write(tmp_path, b"01234567")
        spoil(path)
        assert await stage.take(path) is Outcome.BAD
        assert not path.exists()
        assert names(tmp_path / "aside") == ["00004f87"]
        assert stage.ingest.counts == IngestCounts(n_bad=1)
        (record,) = caplog.records
        fields = vars(record)
        assert (fields["path"], fields["offset_bytes"] >= 0) == (str(path), True)
        assert fields["reason"]
        # The epoch is still free: a good file of it comes in.
        assert await stage.take(write(tmp_path, b"01234567")) is Outcome.INGESTED

    play(story)


def test_a_bad_file_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    async def story() -> None:
        whole = write(tmp_path, b"01234567")
        data = whole.read_bytes()
        whole.write_bytes(data[:17])
        stage = Stage(tmp_path)
        stage.ingest = Ingest(stage.store, YoungClock(whole))
        assert await stage.take(whole) is Outcome.UNFINISHED
        assert names(tmp_path) == ["00004f87"]
        whole.write_bytes(data)
        assert await stage.take(whole) is Outcome.INGESTED

    play(story)


def test_a_file_that_is_gone_is_nobodys_fault(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        assert await stage.take(tmp_path / "00004f87") is Outcome.GONE
        assert stage.ingest.counts.n_stuck == 0

    play(story)


def test_a_file_removed_by_somebody_else_after_the_commit_was_taken(tmp_path: Path) -> None:
    async def story() -> None:
        path = write(tmp_path, b"01234567")

        def empty() -> None:
            for file in tmp_path.iterdir():
                file.unlink()

        async def pause(step: str) -> None:
            if step == "after ingest":
                empty()

        stage = Stage(tmp_path, MemoryStore(A, pause))
        assert await stage.take(path) is Outcome.INGESTED

    play(story)


def test_a_file_that_can_be_neither_removed_nor_set_aside_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    async def story() -> None:
        stage = Stage(tmp_path)
        path = write(tmp_path, b"01234567")
        with monkeypatch.context() as read_only:
            read_only.setattr(Path, "unlink", refuse)
            assert await stage.take(path) is Outcome.STUCK
        assert names(tmp_path) == [".given-00004f87"]
        # It can be removed now, but where `aside` should be is a file.
        assert await stage.take(path) is Outcome.INGESTED
        (tmp_path / "aside").touch()
        write(tmp_path, b"01234567")
        for _ in range(2):
            assert await stage.take(path) is Outcome.STUCK
            assert names(tmp_path) == ["00004f87", "aside"]
        assert stage.ingest.counts.n_stuck == 3
        assert "neither removed nor set aside" in caplog.messages[0]

    play(story)


def test_no_key_byte_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        stage = Stage(tmp_path)
        for _ in range(2):
            await stage.take(write(tmp_path, b"canary-canary-ca"))
        _truncated(path := write(tmp_path, b"canary-canary-ca"))
        await stage.take(path)

    play(story)
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert len(caplog.records) >= 3
    for shape in ("canary", b"canary".hex(), "Y2FuYXJ5"):
        assert shape not in logged


def test_files_reach_a_durable_store_before_they_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()

    async def story() -> None:
        store = await SqliteStore.open(A, tmp_path / "kme.db", Secret(bytes(32)))
        ingest = Ingest(store, FrozenClock())
        for path in sorted(T7.iterdir()):
            assert (
                await ingest.take(Feed(B, LINK, folder), Path(shutil.copy(path, folder)))
                is Outcome.INGESTED
            )
        await store.close()
        again = await SqliteStore.open(A, tmp_path / "kme.db", Secret(bytes(32)))
        assert len(await again.inbox(B, LINK, None, 10)) == 4
        assert names(folder) == []
        await again.close()

    play(story)


class _Forgetful(MemoryStore):
    """Its answers get lost, before or after it has written."""

    def __init__(self, kme: KmeId) -> None:
        super().__init__(kme)
        self.loses_answer = self.loses_request = False

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        if self.loses_request:
            raise StoreUnavailableError("away")
        is_new = await super().ingest(peer, source, epoch, parts)
        if self.loses_answer:
            raise StoreUnavailableError("away")
        return is_new


def test_a_file_whose_answer_was_lost_is_removed_once_the_store_has_its_key(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        store = _Forgetful(A)
        stage = Stage(tmp_path, store)
        path = write(tmp_path, b"0123456789")
        store.loses_answer = True
        with pytest.raises(StoreUnavailableError):
            await stage.take(path)
        assert names(tmp_path) == [f".given-{path.name}"]
        store.loses_answer, store.loses_request = False, True
        with pytest.raises(StoreUnavailableError):
            await stage.take(path)
        store.loses_request = False
        assert await stage.take(path) is Outcome.INGESTED
        assert names(tmp_path) == []
        assert [key.key for key in await stage.keys()] == [Secret(b"0123456789")]
        assert stage.ingest.counts == IngestCounts(n_ingested=1, n_bytes=10)

    play(story)


def test_other_bytes_of_that_epoch_are_set_aside_all_the_same(tmp_path: Path) -> None:
    async def story() -> None:
        store = _Forgetful(A)
        stage = Stage(tmp_path, store)
        path = write(tmp_path, b"0123456789")
        store.loses_answer = True
        with pytest.raises(StoreUnavailableError):
            await stage.take(path)
        store.loses_answer = False
        write(tmp_path, b"9876543210")
        assert await stage.take(path) is Outcome.DUPLICATE
        assert names(tmp_path) == ["aside", f"aside/{path.name}"]
        write(tmp_path, b"0123456789")
        assert await stage.take(path) is Outcome.DUPLICATE
        assert stage.ingest.counts.n_ingested == 1
        assert [key.key for key in await stage.keys()] == [Secret(b"0123456789")]

    play(story)


class _Death(BaseException):
    """The process is killed: nothing is tidied up."""


class _Dying(MemoryStore):
    """Its process is killed before the store takes a key, or right behind the commit."""

    def __init__(self, store: MemoryStore, when: str) -> None:
        super().__init__(A)
        self._store = store
        self._when = when

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        if self._when == "after":
            await self._store.ingest(peer, source, epoch, parts)
        raise _Death


@pytest.mark.parametrize("deaths", [("before",), ("after",), ("after", "after"),
                                    ("before", "after", "before")])  # fmt: skip
def test_a_file_that_killed_processes_left_is_removed_by_the_next_however_many_they_were(
    tmp_path: Path, deaths: Sequence[str]
) -> None:
    async def story() -> None:
        store = MemoryStore(A)
        path = write(tmp_path, b"0123456789")
        for when in deaths:
            with pytest.raises(_Death):
                await Stage(tmp_path, _Dying(store, when)).take(path)
            assert names(tmp_path) == [f".given-{path.name}"]
        stage = Stage(tmp_path, store)
        assert await stage.take(path) is Outcome.INGESTED
        assert names(tmp_path) == []
        assert [key.key for key in await stage.keys()] == [Secret(b"0123456789")]

    play(story)


def give(path: Path) -> Path:
    """Leave a file as a process does that was killed before the store got its key."""
    return path.rename(path.with_name(f".given-{path.name}"))


def test_a_file_that_came_under_the_name_of_one_left_behind_comes_second_to_it(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        give(write(tmp_path, b"0123456789"))
        path = write(tmp_path, b"9876543210")
        assert await stage.take(path) is Outcome.DUPLICATE
        assert [key.key for key in await stage.keys()] == [Secret(b"0123456789")]
        assert names(tmp_path) == ["aside", f"aside/{path.name}"]
        assert stage.ingest.counts == IngestCounts(n_ingested=1, n_bytes=10, n_duplicates=1)

    play(story)


def test_a_file_left_behind_does_not_wait_for_one_that_is_being_written(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        path = write(tmp_path, b"0123456789")
        give(path)
        path.write_bytes(b"half")
        stage.ingest = Ingest(stage.store, YoungClock(path))
        assert await stage.take(path) is Outcome.UNFINISHED
        assert names(tmp_path) == [path.name]
        assert [key.key for key in await stage.keys()] == [Secret(b"0123456789")]

    play(story)


def test_a_file_left_behind_waits_for_room_in_the_inbox_like_others(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        stage.ingest = Ingest(stage.store, FrozenClock(), max_waiting=1)
        assert await stage.take(write(tmp_path, b"01234567", 1)) is Outcome.INGESTED
        path = write(tmp_path, b"01234567", 2)
        give(path)
        with pytest.raises(InboxFullError):
            await stage.take(path)
        assert names(tmp_path) == [f".given-{path.name}"]

    play(story)


def test_a_bad_file_under_a_given_name_is_set_aside_under_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        path = tmp_path / "00004f87"
        (tmp_path / ".given-00004f87").symlink_to("/dev/zero")
        assert await stage.take(path) is Outcome.BAD
        assert names(tmp_path) == ["aside", "aside/00004f87"]
        write(tmp_path, b"01234567").rename(tmp_path / ".given-00004f88")
        assert await stage.take(tmp_path / "00004f88") is Outcome.BAD
        assert names(tmp_path) == ["aside", "aside/00004f87", "aside/00004f88"]

    play(story)


def test_a_file_that_cannot_be_renamed_is_not_given_to_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path)
        path = write(tmp_path, b"01234567")
        (tmp_path / ".given-00004f87").mkdir()
        assert await stage.take(path) is Outcome.STUCK
        assert names(tmp_path) == [".given-00004f87", "00004f87"]
        assert "neither removed nor set aside" in caplog.messages[0]
        assert await stage.keys() == []
        (tmp_path / ".given-00004f87").rmdir()
        assert await stage.take(path) is Outcome.INGESTED

    play(story)


class _Refusing(MemoryStore):
    """It refuses for good."""

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        raise InputError("no such key")


def test_a_file_that_the_store_refuses_for_good_gets_its_name_back_unless_it_was_given_before(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        stage = Stage(tmp_path, _Refusing(A))
        path = write(tmp_path, b"01234567")
        with pytest.raises(InputError):
            await stage.take(path)
        assert names(tmp_path) == [path.name]
        give(path)
        with pytest.raises(InputError):
            await stage.take(path)
        assert names(tmp_path) == [f".given-{path.name}"]

    play(story)


def test_a_file_whose_taking_in_is_cancelled_stays_given(tmp_path: Path) -> None:
    async def story() -> None:
        reached = asyncio.Event()

        async def pause(step: str) -> None:
            if step == "after ingest" and not reached.is_set():
                reached.set()
                await asyncio.Event().wait()

        store = MemoryStore(A, pause)
        path = write(tmp_path, b"01234567")
        taking = asyncio.create_task(Stage(tmp_path, store).take(path))
        await reached.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert names(tmp_path) == [f".given-{path.name}"]
        after = Stage(tmp_path, store.reopened())
        assert await after.take(path) is Outcome.INGESTED
        assert names(tmp_path) == []

    play(story)


def test_while_a_file_is_taken_in_another_process_leaves_it_alone(tmp_path: Path) -> None:
    async def story() -> None:
        reached, gate = asyncio.Event(), asyncio.Event()

        async def pause(step: str) -> None:
            if step == "after ingest":
                reached.set()
                await gate.wait()

        first = Stage(tmp_path, MemoryStore(A, pause))
        second = Stage(tmp_path, first.store)
        path = write(tmp_path, b"01234567")
        taking = asyncio.create_task(first.take(path))
        await reached.wait()
        assert await second.take(path) is Outcome.UNFINISHED
        gate.set()
        assert await taking is Outcome.INGESTED
        assert await second.take(path) is Outcome.GONE
        assert names(tmp_path) == []
        assert second.ingest.counts == IngestCounts()

    play(story)
