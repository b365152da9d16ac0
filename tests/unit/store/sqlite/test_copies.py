"""A store's file is copied and put back: whole, sealed, marked, and never two of them at once."""

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kme.errors import InputError, SealError, SettingsError
from kme.ids import KmeId
from kme.secret import Secret
from kme.store.records import GranuleRange
from kme.store.sqlite import SqliteStore, copies
from store_contract import A, B, C, add_block, everything, rooms

MASTER = Secret(bytes(range(32)))
FIRST = "1" * 32


def use(
    path: Path, story: Callable[[SqliteStore], Awaitable[object]], kme: KmeId = A
) -> list[object]:
    """Open a store, use it, return all that it tells, and close it."""

    async def main() -> list[object]:
        store = await SqliteStore.open(kme, path, MASTER)
        try:
            await story(store)
            return await everything(store)
        finally:
            await store.close()

    return asyncio.run(main())


async def nothing(_: SqliteStore) -> None:
    """Leave it as it is."""


def file_of_a_store(path: Path, n_blocks: int = 3) -> list[object]:
    async def fill(store: SqliteStore) -> None:
        for number in range(1, n_blocks + 1):
            await add_block(store, number, owner=B if number == 2 else A)
        await store.raise_peer_settled(B, n_blocks)

    return use(path, fill)


def marked(path: Path) -> list[str | None]:
    found: list[str | None] = []

    async def look(store: SqliteStore) -> None:
        found.extend([await store.restoring(B), await store.restoring(C)])

    use(path, look)
    return found


class TestBackUp:
    def test_the_copy_is_whole_and_for_its_owner_only(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "out" / "copy.db"
        out.parent.mkdir()
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)
        assert out.stat().st_mode & 0o777 == 0o600
        assert [entry.name for entry in out.parent.iterdir()] == ["copy.db"]
        assert use(path, nothing) == before
        assert use(out, nothing) == before

    def test_what_a_killed_process_left_in_its_log_is_in_the_copy(self, tmp_path: Path) -> None:
        path, killed = tmp_path / "store.db", tmp_path / "killed.db"

        async def main() -> list[object]:
            store = await SqliteStore.open(A, path, MASTER)
            await add_block(store, 1)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")
            before = await everything(store)
            await store.close()
            return before

        before = asyncio.run(main())
        assert Path(f"{killed}-wal").stat().st_size
        copies.back_up(A, killed, MASTER, tmp_path / "copy.db")
        assert use(tmp_path / "copy.db", nothing) == before

    def test_no_key_stands_in_it(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        keys: list[Secret] = []

        async def fill(store: SqliteStore) -> None:
            keys.append(await add_block(store, 1))

        use(path, fill)
        copies.back_up(A, path, MASTER, out)
        assert keys[0].reveal()[:16] not in out.read_bytes()

    def test_an_older_copy_is_replaced(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)

        async def more(store: SqliteStore) -> None:
            await add_block(store, 4)

        after = use(path, more)
        copies.back_up(A, path, MASTER, out)
        assert use(out, nothing) == after

    def test_a_store_in_use_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"

        async def copy(_: SqliteStore) -> None:
            for act in (
                lambda: copies.back_up(A, path, MASTER, tmp_path / "copy.db"),
                lambda: copies.mark(A, path, MASTER, FIRST),
                lambda: copies.restore(A, path, MASTER, path, FIRST),
            ):
                with pytest.raises(SettingsError, match="stop it first"):
                    act()

        use(path, copy)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store.db", "store.db.lock"]

    def test_what_is_no_store_of_this_kme_is_refused(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        with pytest.raises(SettingsError, match=r"store\.db"):
            copies.back_up(A, path, MASTER, out)
        file_of_a_store(path)
        with pytest.raises(SettingsError, match="the store of KME kme-a"):
            copies.back_up(B, path, MASTER, out)
        with pytest.raises(SealError):
            copies.back_up(A, path, Secret(bytes(32)), out)
        with pytest.raises(SettingsError, match="nowhere"):
            copies.back_up(A, path, MASTER, tmp_path / "nowhere" / "copy.db")
        assert not out.exists()

    def test_a_damaged_store_makes_no_copy(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        file_of_a_store(path)
        damage(path)
        with pytest.raises(SettingsError, match=r"damaged|copied|opened"):
            copies.back_up(A, path, MASTER, out)
        assert not out.exists()


def damage(path: Path) -> None:
    """Overwrite all pages but the first two with nonsense."""
    content = bytearray(path.read_bytes())
    content[8192:] = b"\x5a" * (len(content) - 8192)
    path.write_bytes(bytes(content))


class TestRestore:
    def test_the_copy_takes_the_place_of_the_store_and_is_marked(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)

        async def draw(store: SqliteStore) -> None:
            await store.draw(B, [GranuleRange(2, 8, 20)])
            await add_block(store, 4)

        after = use(path, draw)
        aside = copies.restore(A, path, MASTER, out, FIRST)
        assert marked(path) == [FIRST, FIRST]
        assert use(path, nothing) == before
        assert path.stat().st_mode & 0o777 == 0o600
        assert marked(aside / "store.db") == [None, None]
        assert use(aside / "store.db", nothing) == after
        assert marked(out) == [None, None]

    def test_a_lost_store_is_restored_as_well(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)
        path.unlink()
        copies.restore(A, path, MASTER, out, FIRST)
        assert use(path, nothing) == before

    def test_the_log_of_a_damaged_store_is_set_aside_with_it(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)
        damage(path)
        Path(f"{path}-wal").write_bytes(b"a log of the old store")
        aside = copies.restore(A, path, MASTER, out, FIRST)
        assert not Path(f"{path}-wal").exists()
        assert (aside / "store.db-wal").read_bytes() == b"a log of the old store"
        assert use(path, nothing) == before

    @pytest.mark.parametrize("is_there", [True, False])
    def test_a_restore_that_was_cut_off_keeps_every_kme_from_starting(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
    ) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)
        rename = Path.rename
        n_moved = 0

        def die(self: Path, target: Path) -> Path:
            nonlocal n_moved
            n_moved += 1
            if is_there or n_moved > 1:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            copies.restore(A, path, MASTER, out, FIRST)
        monkeypatch.undo()
        assert path.exists() is is_there
        with pytest.raises(SettingsError, match="interrupted"):
            use(path, nothing)
        with pytest.raises(SettingsError, match="interrupted"):
            copies.mark(A, path, MASTER, FIRST)
        with pytest.raises(SettingsError, match="interrupted"):
            copies.back_up(A, path, MASTER, tmp_path / "other.db")
        copies.restore(A, path, MASTER, out, "2" * 32)
        assert marked(path) == ["2" * 32] * 2
        assert use(path, nothing) == before

    def test_what_is_no_copy_of_this_kme_changes_nothing(self, tmp_path: Path) -> None:
        path, out = tmp_path / "store.db", tmp_path / "copy.db"
        before = file_of_a_store(path)
        copies.back_up(A, path, MASTER, out)
        use(tmp_path / "other.db", nothing, B)
        (tmp_path / "empty").touch()
        (tmp_path / "text").write_text("no database, but a text of some length")
        sqlite3.connect(tmp_path / "foreign.db").execute("CREATE TABLE t (x)").connection.close()
        damaged = tmp_path / "damaged.db"
        shutil.copy(out, damaged)
        damage(damaged)
        for name in ("other.db", "empty", "text", "foreign.db", "damaged.db", "absent"):
            with pytest.raises(SettingsError):
                copies.restore(A, path, MASTER, tmp_path / name, FIRST)
        with pytest.raises(SealError):
            copies.restore(A, path, Secret(bytes(32)), out, FIRST)
        with pytest.raises(InputError):
            copies.restore(A, path, MASTER, out, "x")
        assert use(path, nothing) == before
        assert marked(path) == [None, None]


class TestMark:
    def test_a_store_is_marked_where_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        before = file_of_a_store(path)
        copies.mark(A, path, MASTER, FIRST)
        assert marked(path) == [FIRST, FIRST]
        assert use(path, nothing) == before

        async def has_room(store: SqliteStore) -> None:
            assert await rooms(store)

        use(path, has_room)

    def test_a_store_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        with pytest.raises(SettingsError, match=r"store\.db"):
            copies.mark(A, path, MASTER, FIRST)
        assert not path.exists()
