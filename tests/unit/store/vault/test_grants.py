"""Grants as documents: under every fault, by two processes at once, tampered with, and purged."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from faulty_documents import Fault, FaultyDocuments
from kme.errors import IntegrityError, KeyNotFoundError, StoreUnavailableError
from kme.ids import KmeId, SaeId
from kme.store.vault import VaultStore
from kme.store.vault.grantdocs import grant_path
from memory_documents import MemoryDocuments
from store_contract import A, B, add_block, in_loop
from store_contract_grants import BOB, DUE_S, EVE, grant, key_id, purge_all, with_pads
from vault_story import DIGEST_KEY, WAYS


async def opened(documents: MemoryDocuments | FaultyDocuments) -> VaultStore:
    return await VaultStore.open(A, documents, DIGEST_KEY)


class Life:
    """Two grants kept and taken by two slaves each, while one write fails."""

    def __init__(self, at: int, fault: Fault, *, kills: bool) -> None:
        self.at = at
        self.documents = MemoryDocuments(at)
        self.faulty = FaultyDocuments(self.documents, "", at, fault, kills)
        self.taken: list[tuple[int, SaeId]] = []

    async def live(self) -> None:
        await with_pads(await opened(self.documents))
        self.store = await opened(self.faulty)
        for serial in (1, 2):
            await self.attempt(partial(self.keep, serial))
        for serial, slave in itertools.product((1, 2), (BOB, EVE)):
            await self.attempt(partial(self.take, serial, slave))

    async def keep(self, serial: int) -> None:
        await self.store.keep_grants(B, [grant(serial, BOB, EVE)])

    async def take(self, serial: int, slave: SaeId) -> None:
        await self.store.take_grants(B, slave, [key_id(serial)])
        self.taken.append((serial, slave))

    async def attempt(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do it again until it is done or refused, as callers do; what is refused is burnt."""
        while True:
            try:
                await act()
            except StoreUnavailableError:
                if self.faulty.is_dead:
                    self.faulty.revive()
                    self.store = await opened(self.faulty)
                continue
            except KeyNotFoundError:
                assert self.faulty.n_writes > self.at, "refused though nothing failed"
            return

    async def check(self) -> None:
        """Try, in a new process, to take all again and to bring all back."""
        await self.faulty.land()
        self.store = await opened(self.documents)
        for serial, slave in itertools.product((1, 2), (BOB, EVE)):
            with contextlib.suppress(KeyNotFoundError):
                await self.take(serial, slave)
        assert len(self.taken) == len(set(self.taken))
        assert len(self.taken) >= 2
        await purge_all(self.store, math.inf)
        for serial in (1, 2):
            with pytest.raises(KeyNotFoundError):
                await self.keep(serial)


@pytest.mark.parametrize(("fault", "kills"), WAYS)
def test_whatever_write_fails_nobody_gets_a_grant_twice(fault: Fault, kills: bool) -> None:
    async def main() -> None:
        for at in itertools.count():
            life = Life(at, fault, kills=kills)
            await life.live()
            n_writes = life.faulty.n_writes
            await life.check()
            if at >= n_writes:
                break
        assert at >= 8

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
@in_loop
async def test_of_two_processes_one_gives_a_grant_out(seed: int) -> None:
    documents = MemoryDocuments(seed)
    stores = [await opened(documents), await opened(documents)]
    await with_pads(stores[0])
    await stores[0].keep_grants(B, [grant(serial, BOB, EVE) for serial in range(5)])

    async def take(turn: int) -> list[tuple[int, SaeId]]:
        got = []
        for serial, slave in itertools.product(range(5), (BOB, EVE)):
            with contextlib.suppress(KeyNotFoundError):
                await stores[turn % 2].take_grants(B, slave, [key_id(serial)])
                got.append((serial, slave))
        return got

    got = [one for taken in await asyncio.gather(*map(take, range(4))) for one in taken]
    assert sorted(got) == sorted(itertools.product(range(5), (BOB, EVE)))


@pytest.mark.parametrize(
    "change",
    [
        {"slaves": ["bob/2", "mallory"]},
        {"waiting": ["bob/2", "mallory"]},
        {"master": "mallory"},
        {"due_unix_s": DUE_S + 1},
        {"proof": "00" * 32},
        {"key": "AAAA"},
        {"digest": "0" * 64},
        {"waiting": "bob/2"},
        {"master": ""},
        {"proof": "x"},
        {"due_unix_s": None},
    ],
)
@in_loop
async def test_a_grant_that_was_edited_is_refused(change: dict[str, object]) -> None:
    documents = MemoryDocuments()
    store = await opened(documents)
    await with_pads(store)
    await store.keep_grants(B, [grant(1, BOB, EVE)])
    path = grant_path(B, key_id(1))
    found = await documents.read(path)
    assert found is not None
    await documents.write(path, {**found.data, **change}, found.version)
    with pytest.raises(IntegrityError, match=path):
        await store.grants(B, [key_id(1)])
    with pytest.raises(IntegrityError, match=path):
        await store.take_grants(B, BOB, [key_id(1)])


@in_loop
async def test_a_grant_that_was_taken_by_all_holds_no_bytes() -> None:
    documents = MemoryDocuments()
    store = await opened(documents)
    await with_pads(store)
    await store.keep_grants(B, [grant(1, BOB, EVE)])
    for slave in (EVE, BOB):
        found = await documents.read(grant_path(B, key_id(1)))
        assert found is not None
        assert "key" in found.data
        await store.take_grants(B, slave, [key_id(1)])
    found = await documents.read(grant_path(B, key_id(1)))
    assert found is not None
    assert "key" not in found.data


@in_loop
async def test_purging_looks_at_all_peers_and_blocks_in_turn() -> None:
    documents = MemoryDocuments()
    store = await opened(documents)
    await with_pads(store)
    await add_block(store, 1, 2048, owner=KmeId("kme-c"), peer=KmeId("kme-c"))
    late = [grant(serial, due_s=DUE_S + 9) for serial in range(0, 40, 2)]
    soon = [grant(serial) for serial in range(1, 40, 2)]
    for peer in (B, KmeId("kme-c")):
        await store.keep_grants(peer, late + soon)
    paths = {path for path in documents.paths() if path.startswith("grants/")}
    assert len(paths) == 80
    assert len({path.rsplit("/", 1)[0] for path in paths}) == 10
    found = [await store.purge_grants(DUE_S, 7) for _ in range(13)]
    assert sum(found) == 40
    assert max(found) <= 7
    assert found[-1] == 0  # all were looked at: the next call begins again
    assert sum([await store.purge_grants(DUE_S + 9, 7) for _ in range(7)]) == 40
    assert not [path for path in documents.paths() if path.startswith("grants/")]
