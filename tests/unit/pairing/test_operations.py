import asyncio
import random

import pytest

from kme.errors import IdentityError, KeyNotFoundError, PairingError, PeerUnavailableError
from kme.ids import Epoch, KmeId, SaeId
from kme.pairing.compare import MAX_COMPARED
from kme.pairing.operations import Compared, Operations
from kme.pairing.ports import BlockTag, Comparison
from kme.registry.records import SaeList
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import (
    FinalKeyRef,
    GranuleRange,
    IncidentKind,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from simulated_operations import OperatedPair
from simulated_pair import ALICE_KME, BOB_KME, LINK, Chances, SimulatedPair
from simulation import LinkFaults, VirtualClock, run_virtual

A, B = ALICE_KME, BOB_KME


def started(clock: VirtualClock, seed: int = 0, faults: LinkFaults | None = None) -> OperatedPair:
    """Return two KMEs whose loops don't run."""
    pair = SimulatedPair(clock, seed)
    for kme in pair.both:
        kme.start()
    return OperatedPair(pair, faults)


async def add_block(
    store: MemoryStore, peer: KmeId, number: int, key: bytes, owner: KmeId = A
) -> None:
    ref = FinalKeyRef(LINK, Epoch(1000 + number))
    proposal = Proposal(number, owner, (ref,), 3600, SourceClass.QKD, bytes(16))
    await store.settle(peer, Settlement(proposal, Verdict.EQUAL), Secret(key))


async def stocked(operated: OperatedPair, n_blocks: int) -> None:
    """Give both KMEs the same blocks, which they own in turns."""
    for number in range(1, n_blocks + 1):
        key = random.Random(number).randbytes(1024)
        for kme in operated.pair.both:
            owner = (A, B)[number % 2]
            await add_block(kme.store, kme.other.local, number, key, owner)
    for kme in operated.pair.both:
        await kme.store.raise_peer_settled(kme.other.local, n_blocks)


class TestStock:
    def test_both_ends_say_what_they_have(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 3)
            found = await operated.alice.stock(B)
            assert found.there is not None
            assert (found.here.n_blocks, found.there.n_blocks) == (1, 2)
            assert (found.here.n_bytes, found.there.n_bytes) == (960, 1920)
            assert (found.here.n_keys, found.there.n_keys) == (30, 60)
            assert (found.here.highest, found.there.settled) == (3, 3)
            assert (await operated.alice.stock(B, 960)).here.n_keys == 1

        run_virtual(main)

    def test_a_peer_that_is_away_is_told_and_hides_nothing(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock, faults=LinkFaults(drop=1.0))
            await stocked(operated, 3)
            found = await operated.alice.stock(B)
            assert (found.there, found.why_not) == (None, "lost on the way")
            assert found.here.n_bytes == 960

        run_virtual(main)


class TestCompare:
    def test_equal_stock_is_equal_and_bytes_stay_where_they_are(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 5)
            assert await operated.alice.compare(B) == Compared(5, (), (), (), None)
            assert await operated.bob.compare(A, 4) == Compared(2, (), (), (), None)
            assert await operated.bob.compare(A, 6) == Compared(0, (), (), (), None)
            block = await operated.pair.alice.store.block(B, 1)
            assert block is not None
            assert len(block.key.reveal()) == 1024

        run_virtual(main)

    def test_blocks_that_differ_raise_an_alarm(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 2)
            await add_block(operated.pair.alice.store, B, 3, bytes(1024))
            operated.pair.witness.digests.clear()  # who would cry out
            await add_block(operated.pair.bob.store, A, 3, bytes(1023) + b"\1")
            assert await operated.alice.compare(B) == Compared(2, (3,), (), (), None)
            (alarm,) = await operated.alice.incidents(9)
            assert (alarm.kind, alarm.peer) == (IncidentKind.UNEQUAL_BLOCK, B)
            assert alarm.details.endswith(": 3")

        run_virtual(main)

    def test_what_one_end_used_up_is_no_alarm(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            for number, stores in ((1, "ab"), (2, "a"), (3, "b"), (4, "ab")):
                for name, kme in zip("ab", operated.pair.both, strict=True):
                    if name in stores:
                        await add_block(kme.store, kme.other.local, number, bytes(600))
            assert await operated.alice.compare(B) == Compared(2, (), (3,), (2,), None)
            assert await operated.alice.incidents(9) == []

        run_virtual(main)

    def test_a_large_stock_is_compared_part_by_part(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, MAX_COMPARED + 3)
            first = await operated.alice.compare(B)
            assert (first.n_equal, first.next_number) == (MAX_COMPARED, MAX_COMPARED + 1)
            rest = await operated.alice.compare(B, MAX_COMPARED + 1)
            assert (rest.n_equal, rest.next_number) == (3, None)

        run_virtual(main)

    def test_what_nobody_can_use_is_not_compared(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 5)
            await operated.pair.alice.store.raise_floors(B, allocate=3, draw=4)
            assert (await operated.alice.compare(B)).n_equal == 2

        run_virtual(main)

    def test_too_many_at_once_are_refused(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            tags = [BlockTag(n, bytes(32)) for n in range(MAX_COMPARED + 1)]
            with pytest.raises(PairingError, match="at most 64"):
                await operated.alice.on_compare(B, tags)
            assert await operated.alice.on_compare(B, tags[1:]) == [Comparison.ABSENT] * 64

        run_virtual(main)


async def gives_nothing(operated: OperatedPair, numbers: range) -> None:
    """Check that no block of these numbers is of any use at either end."""
    for kme in operated.pair.both:
        peer = kme.other.local
        while (claim := await kme.store.claim(peer, "w", 1, 4096)) is not None:
            assert claim.reserved.block_number not in numbers
        for number in numbers:
            with pytest.raises(KeyNotFoundError):
                await kme.store.draw(peer, [GranuleRange(number, 8, 9)])


class TestClear:
    def test_nothing_is_left_at_either_end_and_both_keep_an_alarm(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 5)
            for kme in operated.pair.both:
                await kme.ingest(LINK, 7, bytes(700))
            assert await operated.bob.clear(A) == 5
            await gives_nothing(operated, range(1, 6))
            for kme in operated.pair.both:
                assert await kme.store.inbox(kme.other.local, LINK, None, 9) == []
                (alarm,) = await kme.store.incidents(9)
                assert alarm.kind is IncidentKind.CLEARED
                assert "block 5" in alarm.details
            assert "KME kme-b" in (await operated.alice.incidents(1))[0].details

        run_virtual(main)

    def test_both_floors_rise_to_the_highest_number_that_either_side_has_seen(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 2)
            await add_block(operated.pair.bob.store, A, 3, bytes(600))
            assert await operated.alice.clear(B) == 3
            for kme in operated.pair.both:
                record = await kme.store.pairing(kme.other.local)
                assert (record.floor_allocate, record.floor_draw) == (3, 3)

        run_virtual(main)

    def test_all_of_a_peer_that_is_gone_for_good_is_burnt_without_asking_it(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock, faults=LinkFaults(drop=1.0))
            await stocked(operated, 4)
            await operated.pair.alice.ingest(LINK, 7, bytes(700))
            for _ in range(2):
                assert await operated.alice.retire(B) == 4
            store = operated.pair.alice.store
            assert await store.inbox(B, LINK, None, 9) == []
            assert await store.claim(B, "w", 1, 1) is None
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [GranuleRange(1, 8, 9)])
            alarm = (await store.incidents(9))[0]
            assert alarm.kind is IncidentKind.RETIRED
            assert "block 4" in alarm.details

        run_virtual(main)

    def test_a_peer_that_is_away_leaves_everything_as_it_is(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock, faults=LinkFaults(drop=1.0))
            await stocked(operated, 2)
            await operated.pair.alice.ingest(LINK, 7, bytes(700))
            with pytest.raises(PeerUnavailableError, match="lost on the way"):
                await operated.alice.clear(B)
            assert (await operated.alice.on_stock(B, 32)).n_blocks == 1
            assert len(await operated.pair.alice.store.inbox(B, LINK, None, 9)) == 1
            assert await operated.alice.incidents(9) == []

        run_virtual(main)

    def test_who_cuts_keys_is_told_at_both_ends_before_blocks_are_destroyed(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 2)
            await operated.alice.clear(B)
            first_told = {kme: floors for kme, *floors in reversed(operated.heeded)}
            assert first_told == {A: [2, 0], B: [2, 0]}

        run_virtual(main)

    def test_an_answer_that_is_lost_leaves_this_end_cleared_and_it_may_be_repeated(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            await stocked(operated, 2)
            link = operated.links[A]
            asked = link.stock

            async def and_then_lose(key_bytes: int) -> object:
                found = await asked(key_bytes)
                operated.faults.lose_answer = 1.0
                return found

            link.stock = and_then_lose  # type: ignore[method-assign, assignment]
            with pytest.raises(PeerUnavailableError, match="clear again when it answers"):
                await operated.alice.clear(B)
            await gives_nothing(operated, range(1, 3))
            operated.faults.heal()
            link.stock = asked  # type: ignore[method-assign]
            assert await operated.alice.clear(B) == 2

        run_virtual(main)

    @pytest.mark.parametrize("seed", range(40))
    def test_whatever_is_under_way_no_old_key_survives_and_the_pair_goes_on(
        self, seed: int
    ) -> None:
        run_virtual(lambda clock: clear_in_midst_of_things(clock, seed))


async def clear_in_midst_of_things(clock: VirtualClock, seed: int) -> None:
    """Clear a pair at a random moment of its life, by either operator."""
    rng = random.Random(seed)
    chances = Chances(
        LinkFaults(max_delay_s=0.4, duplicate=0.2), max_pause_s=rng.choice([0, 0.05, 0.3])
    )
    pair = SimulatedPair(clock, seed, chances)
    pair.begin()
    await clock.sleep(0.01)
    operated = OperatedPair(pair, LinkFaults(max_delay_s=0.3))
    feeding = asyncio.create_task(feed(pair, rng))
    await clock.sleep(rng.uniform(4, 12))
    old = [set(await waiting(kme.store, kme.other.local)) for kme in pair.both]
    made_before = set(pair.witness.proposals)
    operator, peer = rng.choice([(operated.alice, B), (operated.bob, A)])
    await until_cleared(operator, peer)
    floors = [await kme.store.pairing(kme.other.local) for kme in pair.both]
    lowest = min(min(record.floor_allocate, record.floor_draw) for record in floors)
    await clock.sleep(20)
    feeding.cancel()
    for number, proposal in pair.witness.proposals.items():
        is_old = number in made_before or any(set(proposal.entries) & refs for refs in old)
        if is_old and pair.witness.verdicts.get(number) is Verdict.EQUAL:
            assert number <= lowest, f"block {number} of old key survived the clearing"

    async def goes_on() -> bool:
        numbers = [n for n, v in pair.witness.verdicts.items() if v is Verdict.EQUAL]
        return max(numbers, default=0) > lowest

    for epoch in range(9000, 9004):
        for kme in pair.both:
            await kme.ingest(LINK, epoch, random.Random(epoch).randbytes(600))
    await pair.until(goes_on)
    await pair.end()


async def feed(pair: SimulatedPair, rng: random.Random) -> None:
    """Let final keys come in at both ends, not at the same moment."""
    for epoch in range(1000):
        for kme in pair.both:
            await kme.ingest(LINK, epoch, random.Random(epoch).randbytes(300))
            await pair.clock.sleep(rng.uniform(0, 0.3))


async def waiting(store: MemoryStore, peer: KmeId) -> list[FinalKeyRef]:
    return [entry.ref for entry in await store.inbox(peer, LINK, None, 10_000)]


async def until_cleared(operator: Operations, peer: KmeId) -> None:
    for _ in range(20):
        try:
            await operator.clear(peer)
        except PeerUnavailableError:
            continue
        return
    pytest.fail("never cleared")


class TestSaes:
    def test_what_a_peer_tells_is_passed_on(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            told = SaeList(3, (SaeId("bob"),))
            await operated.links[B].tell_saes(told)
            assert operated.listeners[A].heard == [(B, told)]
            assert await operated.alice.incidents(9) == []

        run_virtual(main)

    def test_a_claim_to_somebody_elses_sae_raises_an_alarm(self) -> None:
        async def main(clock: VirtualClock) -> None:
            operated = started(clock)
            operated.listeners[A].disputed = (SaeId("alice"),)
            await operated.links[B].tell_saes(SaeList(1, (SaeId("alice"),)))
            (alarm,) = await operated.alice.incidents(9)
            assert (alarm.kind, alarm.peer) == (IncidentKind.DISPUTED_SAE, B)
            assert "alice" in alarm.details

        run_virtual(main)


def test_who_is_no_peer_is_asked_nothing_and_told_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        operations = started(clock).alice
        nobody = KmeId("nobody")
        for call in (
            operations.stock(nobody),
            operations.compare(nobody),
            operations.clear(nobody),
            operations.retire(nobody),
            operations.state(nobody),
            operations.on_saes(nobody, SaeList(1, ())),
            operations.on_stock(nobody, 32),
            operations.on_compare(nobody, []),
            operations.on_clear(nobody, 1),
        ):
            with pytest.raises(IdentityError):
                await call

    run_virtual(main)


def test_the_state_says_why_keys_are_closed() -> None:
    async def main(clock: VirtualClock) -> None:
        operated = started(clock)
        state = await operated.alice.state(B)
        assert state.reason is not None
        assert "no heartbeat since" in state.reason
        assert operated.alice.peers == (B,)

    run_virtual(main)
