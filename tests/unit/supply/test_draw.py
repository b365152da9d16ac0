import asyncio
import dataclasses
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from kme.errors import (
    KeyNotFoundError,
    NotEntitledError,
    OverlapError,
    StoreUnavailableError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import GranuleRange, IncidentKind
from kme.supply.cache import BlockCache
from kme.supply.directory import SaeDirectory
from kme.supply.draw import (
    CHECK_WINDOW_S,
    KEY_NOT_FOUND,
    MAX_CHECKS_PER_REQUEST,
    MAX_CHECKS_PER_WINDOW,
    CheckBudget,
    Drawer,
    DrawPorts,
)
from kme.supply.key_id import IdScope, make_key_id
from simulation import VirtualClock
from supply_pair import (
    ALICE,
    BOB,
    CAROL,
    EVE,
    A,
    B,
    BlockMaker,
    StoreScript,
    directory_of,
)

ALICE_BOB = IdScope.on_link((ALICE, A), (BOB, B))
ALICE_EVE = IdScope.on_link((ALICE, A), (EVE, B))
CAROL_BOB = IdScope.on_link((CAROL, A), (BOB, B))


class Bench:
    """A drawer of kme-b and its store with three blocks: two of kme-a, one of kme-b."""

    def __init__(
        self, directory: SaeDirectory | None = None, store: MemoryStore | None = None
    ) -> None:
        self.script = StoreScript()
        self.store = store or MemoryStore(B, self.script)
        self.clock = VirtualClock()
        self.cache = BlockCache(self.store)
        self.drawer = Drawer(
            DrawPorts(directory or directory_of(B), self.store, self.cache, self.clock)
        )
        self.keys: dict[int, bytes] = {}

    async def fill(self) -> None:
        maker = BlockMaker((self.store,))
        for number, owner in enumerate((A, A, B), start=1):
            self.keys[number] = await maker.add(owner, 1024)

    def key_id(
        self, scope: IdScope = ALICE_BOB, number: int = 1, offset: int = 8, n_bytes: int = 32
    ) -> KeyId:
        id_key = Secret(self.keys[number][32:64])
        return make_key_id(id_key, scope.encoded(), number, offset, n_bytes)

    def bytes_of(self, key_id: KeyId) -> bytes:
        start = key_id.offset_granules * 8
        return self.keys[key_id.block_number][start : start + key_id.n_bytes]

    async def is_fresh(self, key_id: KeyId, scope: IdScope = ALICE_BOB) -> bool:
        """Draw one key and return whether it was still there."""
        try:
            (key,) = await self.drawer.draw(scope, [key_id])
        except KeyNotFoundError:
            return False
        return key.key.reveal() == self.bytes_of(key_id)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_keys_come_in_the_order_of_their_ids_with_one_write() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        ids = [
            bench.key_id(number=2, offset=20, n_bytes=100),
            bench.key_id(number=1, offset=50, n_bytes=1),
            bench.key_id(number=2, offset=8, n_bytes=8),
            bench.key_id(number=1, offset=8),
        ]
        keys = await bench.drawer.draw(ALICE_BOB, ids)
        assert [key.key_id for key in keys] == ids
        assert [key.key.reveal() for key in keys] == [bench.bytes_of(key_id) for key_id in ids]
        assert bench.script.count("draw") == 1
        assert bench.script.count("block") == 2

    run(scenario())


def test_draws_are_written_in_the_order_of_their_blocks() -> None:
    class Spy(MemoryStore):
        async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
            seen.extend((drawn.block_number, drawn.start, drawn.stop) for drawn in ranges)
            await super().draw(peer, ranges)

    seen: list[tuple[int, int, int]] = []

    async def scenario() -> None:
        bench = Bench(store=Spy(B))
        await bench.fill()
        places = ((2, 20, 32), (1, 50, 9), (2, 8, 1))
        ids = [bench.key_id(ALICE_BOB, *place) for place in places]
        await bench.drawer.draw(ALICE_BOB, ids)
        assert seen == [(1, 50, 52), (2, 8, 9), (2, 20, 24)]

    run(scenario())


def test_a_key_is_given_once() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        assert await bench.is_fresh(bench.key_id())
        with pytest.raises(KeyNotFoundError) as refusal:
            await bench.drawer.draw(ALICE_BOB, [bench.key_id()])
        assert str(refusal.value) == KEY_NOT_FOUND
        assert not isinstance(refusal.value, OverlapError)
        assert await bench.store.incidents(10) == []

    run(scenario())


def test_one_bad_id_leaves_all_others_as_they_were() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        good = [bench.key_id(offset=offset) for offset in (8, 12, 16)]
        drawn = bench.key_id(offset=60)
        assert await bench.is_fresh(drawn)
        bad: list[tuple[KeyId, type[Exception]]] = [
            (drawn, KeyNotFoundError),
            (dataclasses.replace(bench.key_id(offset=80), tag=1), KeyNotFoundError),
            (bench.key_id(ALICE_EVE, offset=84), NotEntitledError),
        ]
        for bad_id, error in bad:
            for place in range(4):
                ids = [*good[:place], bad_id, *good[place:]]
                with pytest.raises(error):
                    await bench.drawer.draw(ALICE_BOB, ids)
        assert len(await bench.drawer.draw(ALICE_BOB, good)) == 3

    run(scenario())


def test_ids_that_nothing_stands_behind_are_not_found() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        fresh = bench.key_id()
        for wrong in (
            dataclasses.replace(fresh, tag=fresh.tag ^ 1),
            dataclasses.replace(fresh, block_number=9),
            dataclasses.replace(fresh, n_bytes=40),
            bench.key_id(offset=0),  # the reserved bytes, under a right tag
            bench.key_id(offset=7),
            bench.key_id(offset=125, n_bytes=32),  # behind the end
            bench.key_id(CAROL_BOB),  # another master
            bench.key_id(number=3),  # a block that kme-a may not allocate from
        ):
            with pytest.raises(KeyNotFoundError) as refusal:
                await bench.drawer.draw(ALICE_BOB, [wrong])
            assert str(refusal.value) == KEY_NOT_FOUND
        assert bench.script.count("draw") == 0
        assert await bench.is_fresh(fresh)

    run(scenario())


def test_a_key_of_another_sae_of_this_kme_is_refused_as_such() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        key_id = bench.key_id(ALICE_BOB)
        with pytest.raises(NotEntitledError, match="another SAE"):
            await bench.drawer.draw(ALICE_EVE, [key_id])
        assert await bench.is_fresh(key_id)
        with pytest.raises(NotEntitledError):
            await bench.drawer.draw(ALICE_EVE, [key_id])

    run(scenario())


def test_part_of_a_key_under_another_id_raises_an_alarm() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        assert await bench.is_fresh(bench.key_id(offset=8, n_bytes=32))
        with pytest.raises(OverlapError) as refusal:
            await bench.drawer.draw(ALICE_BOB, [bench.key_id(offset=11, n_bytes=32)])
        assert str(refusal.value) == KEY_NOT_FOUND
        (incident,) = await bench.store.incidents(10)
        assert incident.kind is IncidentKind.OVERLAPPING_DRAW
        assert incident.peer == A
        assert incident.unix_s == bench.clock.now_s()
        assert "master=alice, caller=bob" in incident.details
        assert "block_number=1" in incident.details

    run(scenario())


def test_two_ids_of_one_request_may_not_overlap() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        ids = [bench.key_id(offset=8), bench.key_id(offset=10)]
        with pytest.raises(OverlapError):
            await bench.drawer.draw(ALICE_BOB, ids)
        assert await bench.is_fresh(ids[0])

    run(scenario())


def test_the_refusal_stands_if_the_alarm_cannot_be_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        assert await bench.is_fresh(bench.key_id())
        bench.script.fail("before record_incident")
        with pytest.raises(OverlapError), caplog.at_level(logging.ERROR):
            await bench.drawer.draw(ALICE_BOB, [bench.key_id(offset=9)])
        assert [record.message for record in caplog.records] == [
            "overlapping draw",
            "alarm not kept",
        ]

    run(scenario())


@pytest.mark.parametrize(("step", "is_burnt"), [("before draw", False), ("after draw", True)])
def test_a_draw_of_unknown_outcome_gives_nothing_out(step: str, is_burnt: bool) -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        key_id = bench.key_id()
        bench.script.fail(step)
        with pytest.raises(StoreUnavailableError):
            await bench.drawer.draw(ALICE_BOB, [key_id])
        assert await bench.is_fresh(key_id) is not is_burnt

    run(scenario())


def test_bytes_that_were_read_in_vain_are_wiped() -> None:
    class Watched(Drawer):
        async def _read(self, scope: IdScope, encoded_scope: bytes, key_id: KeyId) -> Secret | None:
            key = await super()._read(scope, encoded_scope, key_id)
            assert key is not None
            read.append(key)
            return key

    read: list[Secret] = []

    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        drawer = Watched(DrawPorts(directory_of(B), bench.store, bench.cache, bench.clock))
        bench.script.fail("before draw")
        ids = [bench.key_id(offset=8), bench.key_id(offset=12)]
        with pytest.raises(StoreUnavailableError):
            await drawer.draw(ALICE_BOB, ids)
        assert [repr(key) for key in read] == ["Secret(wiped)"] * 2

    run(scenario())


def test_of_many_calls_for_one_key_exactly_one_gets_it() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        gate = bench.script.hold("before draw")
        calls = [asyncio.create_task(bench.is_fresh(bench.key_id())) for _ in range(10)]
        await asyncio.sleep(0)
        gate.set()
        assert sorted(await asyncio.gather(*calls)) == [False] * 9 + [True]

    run(scenario())


def test_keys_are_cut_before_their_block_leaves_memory() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        bench.cache._max_bytes = 1
        ids = [bench.key_id(number=1 + place % 2, offset=8 + 4 * place) for place in range(6)]
        keys = await bench.drawer.draw(ALICE_BOB, ids)
        assert [key.key.reveal() for key in keys] == [bench.bytes_of(key_id) for key_id in ids]

    run(scenario())


def test_after_too_many_tries_foreign_keys_are_merely_not_found() -> None:
    async def scenario() -> None:
        bench = Bench()
        await bench.fill()
        key_id = bench.key_id(ALICE_BOB)
        for _ in range(MAX_CHECKS_PER_WINDOW):
            with pytest.raises(NotEntitledError):
                await bench.drawer.draw(ALICE_EVE, [key_id])
        with pytest.raises(KeyNotFoundError):
            await bench.drawer.draw(ALICE_EVE, [key_id])
        assert await bench.is_fresh(bench.key_id(CAROL_BOB, offset=20), CAROL_BOB)
        bench.clock.advance(CHECK_WINDOW_S)
        with pytest.raises(NotEntitledError):
            await bench.drawer.draw(ALICE_EVE, [key_id])

    run(scenario())


def test_no_request_tries_more_saes_than_the_bound() -> None:
    async def scenario() -> None:
        crowd = tuple((SaeId(f"sae-{number}"), B) for number in range(MAX_CHECKS_PER_REQUEST + 1))
        directory = SaeDirectory(B, (A,), ((ALICE, A), (EVE, B), *crowd))
        bench = Bench(directory)
        await bench.fill()
        near, far = (bench.key_id(IdScope.on_link((ALICE, A), crowd[place])) for place in (-2, -1))
        with pytest.raises(NotEntitledError):
            await bench.drawer.draw(ALICE_EVE, [near])
        with pytest.raises(KeyNotFoundError):
            await bench.drawer.draw(ALICE_EVE, [far])

    run(scenario())


def test_each_caller_has_tries_of_its_own() -> None:
    budget = CheckBudget(VirtualClock())
    assert budget.grant(BOB, 10_000) == MAX_CHECKS_PER_REQUEST
    for _ in range(MAX_CHECKS_PER_WINDOW // MAX_CHECKS_PER_REQUEST - 1):
        assert budget.grant(BOB, MAX_CHECKS_PER_REQUEST) == MAX_CHECKS_PER_REQUEST
    assert budget.grant(BOB, 1) == 0
    assert budget.grant(EVE, 1) == 1
