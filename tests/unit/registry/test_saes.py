import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from kme.errors import ConflictError, InputError, RequestError
from kme.ids import KmeId, SaeId
from kme.registry.records import DEFAULT_HOLD_S, MAX_SAES, SaeEntry, SaeList
from kme.registry.saes import SaeRegistry
from memory_documents import MemoryDocuments
from simulation import VirtualClock
from store_contract import in_loop

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
ALICE, BOB, CAROL = SaeId("alice"), SaeId("bob"), SaeId("carol")
HOLD_S = DEFAULT_HOLD_S


class WatchedDocuments(MemoryDocuments):
    """Documents that count writes, and where somebody else may always be quicker."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.n_writes = 0
        self.rival: SaeId | None = None

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        if self.rival is not None:
            found = await self.read(path)
            taken = {} if found is None else dict(found.data["saes"])
            name = f"{self.rival}-{len(taken)}"
            taken[name] = {"since": 1.0}
            await super().write(path, {"saes": taken}, 0 if found is None else found.version)
        new = await super().write(path, data, version)
        self.n_writes += 1
        return new


class Office:
    """A registry of KME A, its documents and its clock."""

    def __init__(self) -> None:
        self.documents = WatchedDocuments()
        self.clock = VirtualClock()
        self.registry = SaeRegistry(A, self.documents, self.clock)

    def someone_else(self) -> SaeRegistry:
        return SaeRegistry(A, self.documents, self.clock)


@in_loop
async def test_an_sae_is_added_told_of_and_removed() -> None:
    office = Office()
    assert await office.registry.told() == SaeList(0, ())
    await office.registry.add(BOB, "0b")
    await office.registry.add(ALICE, "0a")
    assert await office.registry.told() == SaeList(2, (ALICE, BOB))
    assert await office.registry.remove(BOB) == ("0b",)
    assert await office.registry.told() == SaeList(3, (ALICE,))
    assert (await office.registry.own())[BOB].removed_s == office.clock.now_s()


@in_loop
async def test_removing_may_be_repeated_and_still_says_what_to_revoke() -> None:
    office = Office()
    await office.registry.add(ALICE, "0a")
    await office.registry.add(ALICE, "0b", renews=True)
    assert await office.registry.remove(ALICE) == ("0a", "0b")
    n_writes = office.documents.n_writes
    assert await office.registry.remove(ALICE) == ("0a", "0b")
    assert office.documents.n_writes == n_writes
    with pytest.raises(RequestError, match="'bob' is not registered"):
        await office.registry.remove(BOB)


@in_loop
async def test_the_sae_of_the_first_start_can_be_renewed_and_removed() -> None:
    office = Office()
    await office.documents.write("registry/saes", {"saes": {"alice": {"since": 7}}}, 0)
    assert (await office.registry.told()).saes == (ALICE,)
    await office.registry.add(ALICE, "0b", renews=True)
    assert (await office.registry.own())[ALICE] == SaeEntry(7.0, None, ("0b",))
    assert await office.registry.remove(ALICE) == ("0b",)


@in_loop
async def test_an_id_in_use_is_not_given_twice() -> None:
    office = Office()
    await office.registry.add(ALICE, "0a")
    for refused in (office.registry.check_free(ALICE, [B]), office.registry.add(ALICE, "0b")):
        with pytest.raises(RequestError, match="registered already: RENEW=yes"):
            await refused
    await office.registry.learn(B, SaeList(1, (BOB,)))
    with pytest.raises(RequestError, match="registered at KME kme-b"):
        await office.registry.check_free(BOB, [B, C])
    await office.registry.check_free(CAROL, [B, C])
    await office.registry.check_free(ALICE, [B, C], renews=True)


@in_loop
async def test_only_what_is_there_is_renewed() -> None:
    office = Office()
    with pytest.raises(RequestError, match="add it first"):
        await office.registry.check_free(ALICE, [], renews=True)
    await office.registry.add(ALICE, "0a")
    await office.registry.remove(ALICE)
    with pytest.raises(RequestError, match="add it first"):
        await office.registry.add(ALICE, "0b", renews=True)


@in_loop
async def test_a_removed_id_is_free_after_the_life_of_a_key_and_not_before() -> None:
    office = Office()
    await office.registry.add(ALICE, "0a")
    await office.registry.remove(ALICE)
    office.clock.advance(HOLD_S - 3600)
    with pytest.raises(RequestError, match=r"free in 1\.0 h"):
        await office.registry.check_free(ALICE, [])
    with pytest.raises(RequestError, match="free in"):
        await office.registry.add(ALICE, "0b")
    office.clock.advance(3600)
    await office.registry.check_free(ALICE, [])
    await office.registry.add(ALICE, "0b")
    assert (await office.registry.own())[ALICE].serials == ("0b",)


@in_loop
async def test_two_operators_at_once_lose_nothing() -> None:
    office = Office()
    names = [SaeId(f"sae-{n}") for n in range(6)]
    await asyncio.gather(*(office.someone_else().add(name, "01") for name in names))
    assert (await office.registry.told()).saes == tuple(names)


@in_loop
async def test_of_two_operators_that_take_one_id_one_gets_it() -> None:
    office = Office()
    results = await asyncio.gather(
        *(office.someone_else().add(ALICE, f"0{n}") for n in range(2)), return_exceptions=True
    )
    assert [type(result) for result in results if result is not None] == [RequestError]


@in_loop
async def test_a_registry_that_never_rests_is_given_up() -> None:
    office = Office()
    office.documents.rival = SaeId("rival")
    with pytest.raises(ConflictError, match="try again"):
        await office.registry.add(ALICE, "0a")


@in_loop
async def test_there_is_a_limit_to_saes() -> None:
    office = Office()
    crowd = {f"sae-{n}": {"since": 1} for n in range(MAX_SAES)}
    await office.documents.write("registry/saes", {"saes": crowd}, 0)
    with pytest.raises(RequestError, match="at most 1000"):
        await office.registry.add(ALICE, "0a")
    await office.registry.remove(SaeId("sae-1"))
    await office.registry.add(ALICE, "0a")


class TestWhatPeersTell:
    @in_loop
    async def test_their_saes_live_there(self) -> None:
        office = Office()
        await office.registry.add(ALICE, "0a")
        assert await office.registry.learn(B, SaeList(1, (BOB, CAROL))) == ()
        found = await office.registry.population([B, C])
        assert found.residents == ((ALICE, A), (BOB, B), (CAROL, B))

    @in_loop
    async def test_the_same_list_again_is_not_written_again(self) -> None:
        office = Office()
        await office.registry.learn(B, SaeList(1, (BOB,)))
        n_writes = office.documents.n_writes
        office.clock.advance(60)
        await office.registry.learn(B, SaeList(1, (BOB,)))
        assert office.documents.n_writes == n_writes

    @in_loop
    async def test_a_list_that_comes_late_is_ignored(self) -> None:
        office = Office()
        await office.registry.learn(B, SaeList(5, (BOB,)))
        await office.registry.learn(B, SaeList(4, (CAROL,)))
        assert (await office.registry.population([B])).residents == ((BOB, B),)

    @in_loop
    async def test_who_is_not_on_the_list_is_gone_and_the_id_is_held(self) -> None:
        office = Office()
        await office.registry.learn(B, SaeList(1, (BOB, CAROL)))
        office.clock.advance(10)
        await office.registry.learn(B, SaeList(2, (CAROL,)))
        assert (await office.registry.population([B])).residents == ((CAROL, B),)
        with pytest.raises(RequestError, match="kme-b"):
            await office.registry.check_free(BOB, [B])
        await office.registry.learn(C, SaeList(1, (BOB,)))
        assert (await office.registry.population([B, C])).disputed == ((BOB, C),)
        office.clock.advance(HOLD_S)
        await office.registry.check_free(SaeId("dave"), [B])
        await office.registry.learn(B, SaeList(3, (CAROL,)))
        assert set((await office.registry.of_peers([B]))[B]) == {CAROL}
        assert (BOB, C) in (await office.registry.population([B, C])).residents

    @in_loop
    async def test_who_comes_back_is_there_again(self) -> None:
        office = Office()
        for counter, saes in ((1, (BOB,)), (2, ()), (3, (BOB,))):
            await office.registry.learn(B, SaeList(counter, saes))
        assert (await office.registry.population([B])).residents == ((BOB, B),)

    @in_loop
    async def test_a_claim_to_somebody_elses_sae_is_told_once(self) -> None:
        office = Office()
        await office.registry.add(ALICE, "0a")
        await office.registry.learn(B, SaeList(1, (BOB,)))
        assert await office.registry.learn(C, SaeList(1, (BOB, ALICE, CAROL))) == (ALICE, BOB)
        assert await office.registry.learn(C, SaeList(1, (BOB, ALICE, CAROL))) == ()
        found = await office.registry.population([B, C])
        assert found.residents == ((ALICE, A), (BOB, B), (CAROL, C))
        assert found.disputed == ((ALICE, C), (BOB, C))

    @in_loop
    async def test_a_peer_that_starts_anew_is_believed_once_it_was_forgotten(self) -> None:
        office = Office()
        await office.registry.learn(B, SaeList(9, (BOB,)))
        await office.registry.forget(B)
        assert (await office.registry.population([B])).residents == ()
        await office.registry.learn(B, SaeList(1, (CAROL,)))
        assert (await office.registry.population([B])).residents == ((CAROL, B),)

    @in_loop
    async def test_a_peer_cannot_fill_the_registry(self) -> None:
        office = Office()
        crowds = [tuple(SaeId(f"{n}-{m}") for m in range(MAX_SAES)) for n in range(4)]
        for counter in range(3):
            await office.registry.learn(B, SaeList(counter, crowds[counter]))
        with pytest.raises(RequestError, match="came and went"):
            await office.registry.learn(B, SaeList(3, crowds[3]))


@pytest.mark.parametrize("damaged", [{"saes": 7}, {"saes": {"alice": 7}}, {"saes": {"a b": {}}}])
def test_a_damaged_registry_is_said_to_be_one(damaged: dict[str, object]) -> None:
    async def main() -> None:
        office = Office()
        await office.documents.write("registry/saes", damaged, 0)
        with pytest.raises(InputError):
            await office.registry.own()

    asyncio.run(main())
