"""Bugs that must be found: each is patched into the code here, and the simulation must break.

Every bug has worlds in which its rule is under stress; without the bug these
worlds keep every rule.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from kme.encoding import encode_fields
from kme.errors import KeyNotFoundError
from kme.ids import KeyId, KmeId
from kme.pairing import decide, propose
from kme.pairing.challenges import HeartbeatJudge
from kme.pairing.expiry import KeyExpiry
from kme.secret import Secret
from kme.store import pairstate, rules
from kme.store.ledger import Ledger, draw_all
from kme.store.memory import MemoryStore
from kme.store.ownblocks import OwnBlocks
from kme.store.pairstate import PairState
from kme.store.records import (
    Claim,
    GranuleRange,
    HeartbeatRecord,
    PairingRecord,
    Proposal,
)
from kme.store.restore import RestoreAgreement
from kme.store.vault.cell import Cell
from kme.supply.draw import Drawer
from kme.supply.key_id import IdScope
from kme.supply.supply import LinkSupply
from simulate.disks import TracedStore, VaultDisk, _ProcessDocuments
from simulate.kme import Process, SimulatedKme
from simulate.plan import LIFETIME_S, SHORT_LIFETIME_S, Plan, StoreKind
from simulate.run import run
from simulation import SimulatedCrash
from store_contract import A, FloorStore, StoreContract

Patch = pytest.MonkeyPatch

N_SEEDS: Final = 12

CALM: Final = {
    "store": StoreKind.MEMORY,
    "n_workers": 2,
    "busy_s": 5.0,
    "n_final_keys": 8,
    "unequal": 0.0,
    "one_sided": 0.0,
    "link": (0.0, 0.0, 0.0, 0.005),
    "cut_every_s": 0.0,
    "unavailable": 0.0,
    "outage_every_s": 0.0,
    "max_pause_s": 0.01,
    "max_life_steps": 0,
    "kill_every_s": 0.0,
    "skew": 0.0,
    "eve_at_a": False,
    "is_restored": False,
    "is_said": False,
    "starts_calm": True,
    "lifetime_s": LIFETIME_S,
}
DEADLY: Final = {**CALM, "kill_every_s": 0.6}
LOSSY: Final = {
    **CALM,
    "link": (0.1, 0.6, 0.0, 0.02),
    "busy_s": 8.0,
    "n_final_keys": 14,
}
UNEQUAL: Final = {**CALM, "unequal": 0.5}
CROWDED: Final = {**CALM, "store": StoreKind.VAULT, "n_workers": 3}
LATE: Final = {**CROWDED, "n_workers": 2, "unavailable": 0.15, "late": 0.7}
RESTORED: Final = {**CALM, "is_restored": True}
SAID: Final = {**RESTORED, "is_said": True, "busy_s": 20.0, "n_calls": 60, "n_final_keys": 30}
THIRSTY: Final = {**LOSSY, "busy_s": 16.0, "n_calls": 200, "n_final_keys": 28}
SHORT: Final = {**CALM, "busy_s": 20.0, "n_calls": 60, "lifetime_s": SHORT_LIFETIME_S}


def plans_of(changes: Mapping[str, Any], n_seeds: int = N_SEEDS) -> list[Plan]:
    return [Plan.of(seed, **changes) for seed in range(n_seeds)]


def expect_found(changes: Mapping[str, Any], broken: str, n_seeds: int = N_SEEDS) -> None:
    """Run the worlds, print in how many the bug was found, and fail if in none."""
    outcomes = [run(plan) for plan in plans_of(changes, n_seeds)]
    failures = [one.failure for one in outcomes if one.failure]
    found = [failure for failure in failures if re.search(broken, failure)]
    print(f"found in {len(found)} of {n_seeds} seeds: {found[0] if found else failures}")
    assert found, f"not found; what broke was: {failures}"


@pytest.mark.parametrize(
    "changes", [DEADLY, LOSSY, UNEQUAL, CROWDED, LATE, RESTORED, SAID, THIRSTY, SHORT],
    ids=["deadly", "lossy", "unequal", "crowded", "late", "restored", "said", "thirsty", "short"],
)  # fmt: skip
def test_without_a_bug_these_worlds_keep_every_rule(changes: Mapping[str, Any]) -> None:
    for plan in plans_of(changes):
        outcome = run(plan)
        assert outcome.failure is None, outcome.report()


def test_an_answer_before_the_claim_is_durable_is_found(monkeypatch: Patch) -> None:
    """A claim is written a while after it is used; whoever dies before has claimed nothing."""
    claim_durably = TracedStore.claim

    async def claim(
        store: TracedStore, peer: KmeId, worker: str, least: int, want: int
    ) -> Claim | None:
        found = await claim_durably(store, peer, worker, least, want)
        if found is not None:
            task = asyncio.create_task(forget_if_dead(store, peer, found))
            store.__dict__.setdefault("writing", set()).add(task)
        return found

    async def forget_if_dead(store: TracedStore, peer: KmeId, claim: Claim) -> None:
        try:
            async with asyncio.timeout(3.0):
                await store.fuse.blown.wait()
        except TimeoutError:
            return
        assert isinstance(store.inner, MemoryStore)
        store.inner._give_back(peer, claim, claim.reserved.start)

    monkeypatch.setattr(TracedStore, "claim", claim)
    expect_found(DEADLY, "under two key_IDs|may allocate .* a second time")


def test_a_write_without_check_and_set_is_found(monkeypatch: Patch) -> None:
    class Overwriting(_ProcessDocuments):
        async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
            if path.startswith(("room/", "ledgers/")):
                version = self.documents._kept.get(path, ("", 0))[1]
            return await super().write(path, data, version)

    monkeypatch.setattr(VaultDisk, "documents_of", staticmethod(Overwriting))
    expect_found(CROWDED, "two key_IDs|delivered twice|forgot draws")


def test_a_block_whose_tag_differs_is_found(monkeypatch: Patch) -> None:
    def has_right_tag(pair: tuple[KmeId, KmeId], proposal: Proposal, block: Secret) -> bool:
        return True

    monkeypatch.setattr(decide, "has_right_tag", has_right_tag)
    monkeypatch.setattr(propose, "has_right_tag", has_right_tag)
    expect_found(UNEQUAL, "differs|other bytes|is refused key")


def test_another_content_under_the_same_number_is_found(monkeypatch: Patch) -> None:
    """The leader forgets what it has proposed."""
    read = MemoryStore.pairing

    async def pairing(store: MemoryStore, peer: KmeId) -> PairingRecord:
        record = await read(store, peer)
        if record.open_proposal is None:
            return record
        return replace(record, open_proposal=None, highest=record.highest - 1)

    def opens(record: PairingRecord, proposal: Proposal) -> bool:
        return record.open_proposal != proposal

    monkeypatch.setattr(MemoryStore, "pairing", pairing)
    monkeypatch.setattr(rules, "opens", opens)
    # The follower has settled what the leader forgot: another content, or no block any more.
    plenty = {**LOSSY, "n_final_keys": 30, "link": (0.3, 0.3, 0.0, 0.02)}
    expect_found(plenty, "has two contents|all final keys become blocks: not within")


def test_a_burnt_range_used_again_is_found(monkeypatch: Patch) -> None:
    def close_claims(store: MemoryStore, worker: str | None) -> int:
        closed = [
            (peer, claim)
            for peer, claim in store._state.claims.values()
            if worker in {None, claim.worker}
        ]
        for peer, claim in closed:
            store._give_back(peer, claim, claim.reserved.start)
        return len(closed)

    monkeypatch.setattr(MemoryStore, "_close_claims", close_claims)
    expect_found(DEADLY, "under two key_IDs|may allocate .* a second time")


class MemoryBackend:
    async def open(self) -> FloorStore:
        return MemoryStore(A)

    async def reopen(self, store: FloorStore) -> FloorStore:
        return store

    async def crash(self, store: FloorStore) -> FloorStore:
        return store


def test_a_draw_that_creates_a_missing_ledger_is_found(monkeypatch: Patch) -> None:
    """In these worlds no ledger is ever missing: the contract of stores finds it."""

    def draw(
        ledgers: Mapping[int, Ledger | None], ranges: Sequence[GranuleRange]
    ) -> dict[int, Ledger]:
        numbers = {wanted.block_number for wanted in ranges}
        made = {number: ledgers.get(number) or Ledger.fresh(8192) for number in numbers}
        return draw_all(made, ranges)

    monkeypatch.setattr(pairstate, "draw_all", draw)
    contract, n_found = StoreContract(), 0
    for promise in (
        contract.test_a_draw_is_whole_or_leaves_no_trace,
        contract.test_no_draw_at_or_below_the_floor,
    ):
        with pytest.raises(BaseException, match="DID NOT RAISE"):
            promise(MemoryBackend())
        n_found += 1
    print(f"found by {n_found} promises of the contract")


def test_a_draw_undone_is_found(monkeypatch: Patch) -> None:
    """A refused draw clears the bits that it would have set."""
    mark = PairState.draw

    def draw(pair: PairState, ranges: Sequence[GranuleRange]) -> None:
        try:
            mark(pair, ranges)
        except KeyNotFoundError:
            for wanted in ranges:
                ledger = pair.ledgers.get(wanted.block_number)
                if ledger is not None:
                    bits = (1 << wanted.stop) - (1 << wanted.start)
                    pair.ledgers[wanted.block_number] = replace(ledger, drawn=ledger.drawn & ~bits)
            raise

    monkeypatch.setattr(PairState, "draw", draw)
    expect_found(CALM, "delivered twice|forgot draws")


def test_an_answer_before_the_draw_is_durable_is_found(monkeypatch: Patch) -> None:
    write = Drawer._write

    async def write_later(drawer: Drawer, scope: IdScope, key_ids: Sequence[KeyId]) -> None:
        async def later() -> None:
            await asyncio.sleep(0.2)
            try:
                await write(drawer, scope, key_ids)
            except (KeyNotFoundError, SimulatedCrash):
                return

        drawer.__dict__.setdefault("writing", set()).add(asyncio.create_task(later()))

    monkeypatch.setattr(Drawer, "_write", write_later)
    expect_found(DEADLY, "delivered twice|forgot draws")


def test_a_tag_without_the_slaves_name_is_found(monkeypatch: Patch) -> None:
    def encoded(scope: IdScope) -> bytes:
        fields = (*scope.pair, scope.master_kme, scope.slave_kme, scope.master)
        return encode_fields(*(field.encode("ascii") for field in fields))

    monkeypatch.setattr(IdScope, "encoded", encoded)
    expect_found(CALM, "was given key .* which is for")


def test_allocation_before_the_others_ledger_is_durable_is_found(monkeypatch: Patch) -> None:
    def is_usable(record: PairingRecord, number: int) -> bool:
        return record.floor_allocate < number

    def opened_by(before: PairingRecord, after: PairingRecord) -> tuple[int, int]:
        return 0, 0

    monkeypatch.setattr(rules, "is_usable", is_usable)
    monkeypatch.setattr(rules, "opened_by", opened_by)
    # The follower must be in need of just the block whose verdict the leader doesn't hear.
    expect_found(THIRSTY, "is refused key .* never drawn", n_seeds=24)


def test_a_timed_out_claim_taken_as_failed_is_found(monkeypatch: Patch) -> None:
    """A claim whose write lands after all is nobody's, and stays open for ever."""
    change_safely = Cell.change

    def change(
        cell: Cell[Any], act: Callable[[Any], Any], undo: Callable[[Any], object] | None = None
    ) -> Awaitable[Any]:
        return change_safely(cell, act)

    monkeypatch.setattr(Cell, "change", change)
    expect_found(LATE, "open claims that no worker knows of")


def test_serving_after_a_roll_back_that_nobody_saw_is_found(monkeypatch: Patch) -> None:
    def follows(record: HeartbeatRecord, nonce: str, acknowledged: str | None) -> bool:
        return True

    async def check_settled(judge: HeartbeatJudge, peer_settled: int) -> None:
        """See nothing."""

    monkeypatch.setattr(rules, "follows", follows)
    monkeypatch.setattr(HeartbeatJudge, "check_settled", check_settled)
    expect_found(RESTORED, "after an old backup was restored|hands out keys after a restore")


def test_serving_after_a_restore_with_the_old_floors_is_found(monkeypatch: Patch) -> None:
    """The pair agrees on what is given up, and the restored KME goes on using it."""
    agree = PairState.agree_restore

    def keep_floors(pair: PairState, *marks: int, **more: int) -> None:
        """Raise nothing."""

    def agree_restore(
        pair: PairState, kme: KmeId, peer: KmeId, agreement: RestoreAgreement
    ) -> None:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(PairState, "raise_marks", keep_floors)
            agree(pair, kme, peer, agreement)

    monkeypatch.setattr(PairState, "agree_restore", agree_restore)
    expect_found(SAID, "under two key_IDs|delivered twice")


def test_expiry_decided_by_the_owner_is_found(monkeypatch: Patch) -> None:
    """What the owner is done with ends at once, whatever may still be drawn of it."""

    def lifetime_s(expiry: KeyExpiry, record: PairingRecord) -> int:
        return 0

    monkeypatch.setattr(KeyExpiry, "_lifetime_s", lifetime_s)
    expect_found(SHORT, "is refused key .* never drawn")


def test_a_frontier_that_covers_what_is_claimed_is_found(monkeypatch: Patch) -> None:
    """The owner says that it is done with what its workers still cut keys from."""
    open_from = OwnBlocks.open_from

    def without_claims(own: OwnBlocks, floor: int) -> dict[int, int]:
        return open_from(replace(own, claimed={}), floor)

    monkeypatch.setattr(OwnBlocks, "open_from", without_claims)
    expect_found(SHORT, "is refused key .* never drawn")


def test_an_elected_worker_that_closes_claims_in_use_is_found(monkeypatch: Patch) -> None:
    """The elected worker closes all claims, also of workers that live and go on with them."""

    async def close_all(_: SimulatedKme, process: Process) -> None:
        await process.store.close_claims()

    def drop_claims(supply: LinkSupply) -> None:
        """Go on with what was claimed."""

    monkeypatch.setattr(LinkSupply, "drop_claims", drop_claims)
    monkeypatch.setattr(SimulatedKme, "_close_lapsed_claims", close_all)
    expect_found({**SHORT, "kill_every_s": 0.6}, "is refused key .* never drawn")
