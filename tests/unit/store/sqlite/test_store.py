"""The store in an SQLite file: all promises, over restarts and images of killed processes."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kme.errors import KmeError
from kme.ids import Epoch, KmeId
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import Claim, Expiry, Frontier, GranuleRange, Settlement, Verdict
from kme.store.sqlite import SqliteStore
from store_contract import (
    LINK,
    A,
    B,
    FloorStore,
    StoreContract,
    everything,
    proposal,
    ref,
    some_key,
)
from store_contract_expiry import EndOfKeysContract
from store_contract_grants import GrantContract
from store_contract_restore import RestoreContract

MASTER = Secret(bytes(range(32)))


class SqliteBackend:
    """Files in one folder; a crash is a copy of them while they are in use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._serial = itertools.count()
        self._path = folder

    async def open(self) -> FloorStore:
        self._path = self._folder / f"{next(self._serial)}.db"
        return await SqliteStore.open(A, self._path, MASTER)

    async def reopen(self, store: FloorStore) -> FloorStore:
        await store.close()
        return await SqliteStore.open(A, self._path, MASTER)

    async def crash(self, store: FloorStore) -> FloorStore:
        left = self._folder / f"{next(self._serial)}.db"
        for suffix in ("", "-wal"):
            found = self._path.with_name(self._path.name + suffix)
            if found.exists():
                shutil.copy(found, left.with_name(left.name + suffix))
        await store.close()
        self._path = left
        return await SqliteStore.open(A, left, MASTER)


class TestSqliteStore(StoreContract, EndOfKeysContract, GrantContract, RestoreContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> SqliteBackend:
        return SqliteBackend(tmp_path)


class TwoStores(RuleBasedStateMachine):
    """The same calls on both backends have the same answers, whatever they are."""

    numbers = st.integers(0, 6)
    granules = st.tuples(st.integers(8, 20), st.integers(1, 6))

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.backend = SqliteBackend(Path(self.folder.name))
        self.durable = self.runner.run(self.backend.open())
        self.model: FloorStore = MemoryStore(A)
        self.claims: list[tuple[Claim, Claim]] = []

    def teardown(self) -> None:
        self.runner.run(self.durable.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call: Callable[[FloorStore], Coroutine[None, None, Any]]) -> tuple[Any, Any]:
        """Make a call on both; return the answers, or the kinds of error."""

        async def attempt(store: FloorStore) -> Any:
            try:
                return await call(store)
            except KmeError as error:
                return type(error), str(error)

        async def answers() -> tuple[Any, Any]:
            return await attempt(self.durable), await attempt(self.model)

        return self.runner.run(answers())

    def same(self, call: Callable[[FloorStore], Coroutine[None, None, Any]]) -> None:
        durable, model = self.both(call)
        assert durable == model

    @rule(epoch=st.integers(0, 12), sizes=st.lists(st.integers(0, 80), max_size=2))
    def ingest(self, epoch: int, sizes: list[int]) -> None:
        parts = [some_key(size, epoch) for size in sizes]
        self.same(lambda store: store.ingest(B, LINK, Epoch(epoch), parts))

    @rule(number=numbers, epochs=st.sets(st.integers(0, 12), min_size=1, max_size=3))
    def open_proposal(self, number: int, epochs: set[int]) -> None:
        listed = proposal(1 + number, *map(ref, sorted(epochs)))
        self.same(lambda store: store.open_proposal(B, listed))

    @rule(
        number=numbers,
        verdict=st.sampled_from(Verdict),
        owner=st.sampled_from([A, B]),
        n_bytes=st.sampled_from([None, 63, 96, 128, 171]),
        is_ours=st.booleans(),
    )
    def settle(
        self, number: int, verdict: Verdict, owner: KmeId, n_bytes: int | None, is_ours: bool
    ) -> None:
        mine = self.runner.run(self.model.pairing(B)).open_proposal
        decided = mine if is_ours and mine else proposal(1 + number, ref(number), owner=owner)
        key = None if n_bytes is None else some_key(n_bytes, number)
        self.same(lambda store: store.settle(B, Settlement(decided, verdict), key))

    @rule(number=numbers)
    def raise_peer_settled(self, number: int) -> None:
        self.same(lambda store: store.raise_peer_settled(B, number))

    @rule(allocate=st.integers(0, 3), draw=st.integers(0, 2))
    def raise_floors(self, allocate: int, draw: int) -> None:
        self.same(lambda store: store.raise_floors(B, allocate, draw))

    @rule(least=st.integers(0, 6), more=st.integers(0, 6), worker=st.sampled_from("vw"))
    def claim(self, least: int, more: int, worker: str) -> None:
        durable, model = self.both(lambda store: store.claim(B, worker, least, least + more))
        if isinstance(model, Claim):
            assert durable == replace(model, nonce=durable.nonce)
            self.claims.append((durable, model))
        else:
            assert durable == model

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0), used=st.integers(-1, 8))
    def give_back(self, which: int, used: int) -> None:
        durable, model = self.claims[which % len(self.claims)]
        untouched = model.reserved.start + used

        async def call(store: FloorStore) -> None:
            mine = model if store is self.model else durable
            await store.give_back(B, mine, untouched)

        self.same(call)

    @rule(worker=st.sampled_from(["v", "w", None]))
    def close_claims(self, worker: str | None) -> None:
        self.same(lambda store: store.close_claims(worker))

    @rule(wanted=st.lists(st.tuples(numbers, granules), max_size=3))
    def draw(self, wanted: list[tuple[int, tuple[int, int]]]) -> None:
        ranges = [GranuleRange(n, start, start + length) for n, (start, length) in wanted]
        self.same(lambda store: store.draw(B, ranges))

    @rule(number=numbers, named=st.dictionaries(numbers, granules), due=st.integers(0, 9))
    def note_expiry(self, number: int, named: dict[int, tuple[int, int]], due: int) -> None:
        open_from = {n: start for n, (start, _) in named.items() if 1 <= n < number}
        noted = Expiry(Frontier(number, open_from), due)
        self.same(lambda store: store.note_expiry(B, noted))

    @rule(now=st.integers(0, 9))
    def expire(self, now: int) -> None:
        self.same(lambda store: store.expire(B, now))

    @rule()
    def crash(self) -> None:
        self.durable = self.runner.run(self.backend.crash(self.durable))

    @invariant()
    def both_tell_the_same(self) -> None:
        self.same(everything)


TestTwoStores = TwoStores.TestCase
TestTwoStores.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, derandomize=True
)
