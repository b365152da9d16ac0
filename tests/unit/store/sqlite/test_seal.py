"""Key bytes at rest: nowhere in clear, only in their own row, only unchanged, gone when deleted."""

import asyncio
import base64
import math
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from kme.errors import SealError
from kme.ids import Epoch, KmeId
from kme.secret import Secret
from kme.store.records import Expiry, Frontier
from kme.store.sqlite import SqliteStore, writer
from kme.store.sqlite.seal import Sealed, Sealer
from kme.store.sqlite.transaction import Transaction
from store_contract import LINK, OTHER, A, B, C, add_block, equal, ref, some_key
from store_contract_grants import BOB, EVE, grant, key_id, with_pads

MASTER = Secret(bytes(range(32)))
Story = Callable[[SqliteStore], Coroutine[None, None, None]]


def with_store(path: Path, story: Story) -> None:
    async def run() -> None:
        store = await SqliteStore.open(A, path, MASTER)
        await story(store)
        await store.close()

    asyncio.run(run())


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        assert connection.execute(statement).rowcount != 0
    connection.commit()
    connection.close()


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def shapes(key: bytes) -> list[bytes]:
    """Return forms in which a piece of key might lie about."""
    found = []
    for begin in (0, 1, 2, len(key) // 2):
        piece = key[begin : begin + 24]
        found += [piece, piece[::-1], piece.hex().encode(), piece.hex().upper().encode()]
        found += [base64.b64encode(piece)[:-4], base64.urlsafe_b64encode(piece)[:-4]]
    return found


def test_what_is_sealed_opens_with_its_place_and_master_key_only() -> None:
    sealer = Sealer(MASTER, A)
    sealed = sealer.seal(some_key(100), "blocks", "kme-b", 7)
    assert sealer.open(sealed, "blocks", "kme-b", 7) == some_key(100)
    for other in (Sealer(Secret(bytes(32)), A), Sealer(MASTER, B)):
        with pytest.raises(SealError):
            other.open(sealed, "blocks", "kme-b", 7)
    for place in (("blocks", "kme-b", 8), ("inbox", "kme-b", 7), ("blockskme-b", "", 7)):
        with pytest.raises(SealError):
            sealer.open(sealed, *place)


def test_no_two_sealings_are_alike() -> None:
    sealer = Sealer(MASTER, A)
    first, second = (sealer.seal(some_key(100), "x") for _ in range(2))
    assert first.key != second.key
    assert first.data_key != second.data_key


@pytest.mark.parametrize("field", ["data_key", "key"])
def test_every_flipped_byte_and_every_cut_is_noticed(field: str) -> None:
    sealer = Sealer(MASTER, A)
    sealed = sealer.seal(some_key(16), "x")
    parts = {"data_key": sealed.data_key, "key": sealed.key}
    whole = parts[field]
    changed = [whole[:n] for n in range(len(whole))]
    changed += [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(len(whole))]
    for bad in changed:
        with pytest.raises(SealError) as caught:
            sealer.open(Sealed(**(parts | {field: bad})), "x")
        assert some_key(16).reveal().hex() not in str(caught.value.diagnostics())


def test_no_key_lies_in_clear_in_any_file_at_any_time(tmp_path: Path) -> None:
    keys = [some_key(2000, seed).reveal() for seed in range(4)]

    async def story(store: SqliteStore) -> None:
        for number, key in enumerate(keys):
            await store.ingest(B, LINK, Epoch(number), [Secret(key)])
        look("in the inbox")
        for number in (0, 1):
            await store.settle(B, equal(number + 1, ref(number)), Secret(keys[number]))
        await store.raise_peer_settled(B, 2)
        await store.claim(B, "w", 1, 10)
        look("in blocks")

    def look(when: str) -> None:
        everything = all_bytes(tmp_path)
        assert MASTER.reveal() not in everything
        for key in keys:
            for shape in shapes(key):
                assert shape not in everything, when

    with_store(tmp_path / "kme.db", story)
    look("after closing")
    # The search does find what lies in clear.
    (tmp_path / "careless").write_bytes(b"...." + keys[3] + b"....")
    with pytest.raises(AssertionError):
        look("in a careless file")


def test_what_left_the_inbox_is_shredded_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SHRED_AFTER_S", 0.01)

    async def story(store: SqliteStore) -> None:
        await store.ingest(B, LINK, Epoch(1), [some_key(5000)])
        sealed = await store._writer.call(Transaction.row, "SELECT data_key, key FROM inbox")
        assert sealed is not None
        data_key, key = sealed
        assert data_key in all_bytes(tmp_path)
        assert key[-40:] in all_bytes(tmp_path)
        await store.settle(B, equal(1, ref(1)), some_key(5000))
        for _ in range(200):
            if data_key not in all_bytes(tmp_path):
                break
            await asyncio.sleep(0.02)
        assert data_key not in all_bytes(tmp_path)
        assert key[-40:] not in all_bytes(tmp_path)
        # The block is there all the same, and the store goes on.
        assert await store.block(B, 1) is not None

    with_store(tmp_path / "kme.db", story)


@pytest.mark.parametrize("owner", [A, B])
def test_a_block_of_which_nothing_can_come_is_shredded_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: KmeId
) -> None:
    monkeypatch.setattr(writer, "_SHRED_AFTER_S", 0.01)

    async def use_up(store: SqliteStore) -> None:
        if owner == A:
            await store.raise_peer_settled(B, 1)
            await store.claim(B, "w", 1, 10**6)
            await store.close_claims()
        else:
            await store.note_expiry(B, Expiry(Frontier(2), 100.0))
            await store.expire(B, 100.0)

    async def story(store: SqliteStore) -> None:
        await add_block(store, 1, 5000, owner)
        sealed = await store._writer.call(Transaction.row, "SELECT data_key, key FROM blocks")
        assert sealed is not None
        data_key, key = sealed
        assert data_key in all_bytes(tmp_path)
        await use_up(store)
        for _ in range(200):
            if data_key not in all_bytes(tmp_path):
                break
            await asyncio.sleep(0.02)
        assert data_key not in all_bytes(tmp_path)
        assert key[-40:] not in all_bytes(tmp_path)
        left = "SELECT number FROM blocks UNION ALL SELECT number FROM ledgers"
        assert await store._writer.call(Transaction.rows, left) == []
        assert await store._writer.call(Transaction.rows, "SELECT number FROM own_blocks") == []

    with_store(tmp_path / "kme.db", story)


async def _two_of_each(store: SqliteStore) -> None:
    for peer in (B, C):
        for epoch in (1, 2):
            await store.ingest(peer, LINK, Epoch(epoch), [some_key(600), some_key(601)])
        for number in (1, 2):
            await add_block(store, number, peer=peer)


@pytest.mark.parametrize(
    "statement",
    [
        # Bytes from another row, whole or in part.
        (
            "UPDATE blocks SET (data_key, key) = (SELECT data_key, key FROM blocks WHERE number = 2"
            " AND peer = 'kme-b') WHERE number = 1 AND peer = 'kme-b'"
        ),
        (
            "UPDATE blocks SET (data_key, key) = (SELECT data_key, key FROM blocks WHERE number = 1"
            " AND peer = 'kme-c') WHERE number = 1 AND peer = 'kme-b'"
        ),
        (
            "UPDATE blocks SET key = (SELECT key FROM blocks WHERE number = 2"
            " AND peer = 'kme-b') WHERE number = 1 AND peer = 'kme-b'"
        ),
        (
            "UPDATE blocks SET (data_key, key) = (SELECT data_key, key FROM inbox"
            " WHERE epoch = 1 AND peer = 'kme-b') WHERE number = 1 AND peer = 'kme-b'"
        ),
        # What is bound with the bytes.
        "UPDATE blocks SET owner = 'kme-b' WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET owner = 'no KME' WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET source = 'other' WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET source_class = 'random' WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET lifetime_s = 9999999 WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET key = zeroblob(1052) WHERE number = 1 AND peer = 'kme-b'",
        "UPDATE blocks SET data_key = 17 WHERE number = 1 AND peer = 'kme-b'",
    ],
)
def test_a_block_that_was_edited_does_not_open(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "kme.db"
    with_store(path, _two_of_each)
    change(path, statement)

    async def look(store: SqliteStore) -> None:
        with pytest.raises(SealError):
            await store.block(B, 1)
        assert await store.block(B, 2) is not None
        assert await store.block(C, 1) is not None

    with_store(path, look)


@pytest.mark.parametrize(
    "statement",
    [
        (
            "UPDATE inbox SET (data_key, key) = (SELECT data_key, key FROM inbox WHERE epoch = 1"
            " AND part = 1 AND peer = 'kme-b') WHERE epoch = 1 AND part = 0 AND peer = 'kme-b'"
        ),
        (
            "UPDATE inbox SET (data_key, key) = (SELECT data_key, key FROM inbox WHERE epoch = 2"
            " AND part = 0 AND peer = 'kme-b') WHERE epoch = 1 AND part = 0 AND peer = 'kme-b'"
        ),
        (
            "UPDATE inbox SET (data_key, key) = (SELECT data_key, key FROM inbox WHERE epoch = 1"
            " AND part = 0 AND peer = 'kme-c') WHERE epoch = 1 AND part = 0 AND peer = 'kme-b'"
        ),
        "UPDATE inbox SET source = 'other' WHERE epoch = 1 AND part = 0 AND peer = 'kme-b'",
    ],
)
def test_a_final_key_that_was_edited_does_not_open(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "kme.db"
    with_store(path, _two_of_each)
    change(path, statement)

    async def look(store: SqliteStore) -> None:
        with pytest.raises(SealError):
            await store.final_keys(B, [ref(1), ref(1, source=OTHER)])
        assert len(await store.final_keys(B, [ref(2)])) == 1

    with_store(path, look)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE grants SET slave = 'aa' WHERE slave = 'bob/2' AND key_id = ?",
        "UPDATE grants SET master = 'mallory' WHERE key_id = ?",
        (
            "UPDATE grants SET (data_key, key) = (SELECT data_key, key FROM grants"
            " WHERE slave = 'eve') WHERE slave = 'bob/2' AND key_id = ?"
        ),
        "UPDATE grants SET key = zeroblob(60) WHERE key_id = ?",
    ],
)
def test_a_grant_that_was_edited_does_not_open(tmp_path: Path, statement: str) -> None:
    async def fill(store: SqliteStore) -> None:
        await with_pads(store)
        await store.keep_grants(B, [grant(1, BOB, EVE), grant(2)])

    async def look(store: SqliteStore) -> None:
        with pytest.raises(SealError):
            await store.grants(B, [key_id(1)])
        assert await store.grants(B, [key_id(2)])

    with_store(tmp_path / "kme.db", fill)
    change(tmp_path / "kme.db", statement.replace("?", f"'{key_id(1)}'"))
    with_store(tmp_path / "kme.db", look)


@pytest.mark.parametrize("way", ["take", "purge"])
def test_a_grant_that_was_taken_or_purged_is_shredded_in_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(writer, "_SHRED_AFTER_S", 0.01)

    async def story(store: SqliteStore) -> None:
        await with_pads(store)
        await store.keep_grants(B, [grant(1)])
        for shape in shapes(some_key(32, 1).reveal()):
            assert shape not in all_bytes(tmp_path)
        sealed = await store._writer.call(Transaction.row, "SELECT data_key, key FROM grants")
        assert sealed is not None
        assert sealed[0] in all_bytes(tmp_path)
        if way == "take":
            await store.take_grants(B, BOB, [key_id(1)])
        else:
            assert await store.purge_grants(math.inf, 1) == 1
        for _ in range(200):
            if sealed[0] not in all_bytes(tmp_path):
                break
            await asyncio.sleep(0.02)
        assert sealed[0] not in all_bytes(tmp_path)
        assert sealed[1] not in all_bytes(tmp_path)

    with_store(tmp_path / "kme.db", story)
