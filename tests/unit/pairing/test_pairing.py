import asyncio
import random
from functools import partial
from itertools import pairwise

import pytest

from kme.errors import IdentityError, PeerUnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.pairing import Pairing
from kme.pairing.ports import Heartbeat, HeartbeatAnswer
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import (
    MIN_BLOCK_BYTES,
    FinalKeyRef,
    IncidentKind,
    KeyBlock,
    Proposal,
    Verdict,
)
from simulated_pair import (
    ALICE_KME,
    BOB_KME,
    FIRST_HEARTBEAT,
    LINK,
    OTHER_LINK,
    SOURCES,
    Chances,
    ScriptedLink,
    SimulatedPair,
    accepted,
    config_of,
)
from simulation import LinkFaults, VirtualClock, run_virtual


async def common_bytes(pair: SimulatedPair) -> int:
    """Return how many bytes the fullest source has that both KMEs hold the same or not."""
    most = 0
    for source in SOURCES:
        mine = await pair.alice.store.inbox(pair.bob.local, source, None, 100_000)
        theirs = await pair.bob.store.held(pair.alice.local, [entry.ref for entry in mine])
        most = max(most, sum(entry.n_bytes for entry in theirs))
    return most


async def is_settled(pair: SimulatedPair) -> bool:
    """Return whether nothing is left to do: all blocks formed, known and usable at both ends."""
    alice = await pair.alice.store.pairing(pair.bob.local)
    bob = await pair.bob.store.pairing(pair.alice.local)
    return (
        await common_bytes(pair) < MIN_BLOCK_BYTES
        and alice.open_proposal is None
        and alice.last == bob.last
        and alice.peer_settled == bob.peer_settled == alice.highest
    )


async def check_blocks(pair: SimulatedPair) -> None:
    """Compare all blocks, which nobody used and so never expired, and what may be allocated."""
    usable = {kme.local: 0 for kme in pair.both}
    for number, verdict in pair.witness.verdicts.items():
        mine = await pair.alice.store.block(pair.bob.local, number)
        theirs = await pair.bob.store.block(pair.alice.local, number)
        assert mine == theirs
        assert (mine is None) == (verdict is not Verdict.EQUAL)
        if mine is not None:
            usable[mine.owner] += 8 * mine.n_granules - 64
    for kme in pair.both:
        assert (await kme.store.stock(kme.other.local)).n_bytes == usable[kme.local]


async def kinds_of_incidents(pair: SimulatedPair) -> set[IncidentKind]:
    return {incident.kind for kme in pair.both for incident in await kme.store.incidents(1000)}


async def feed(pair: SimulatedPair, n_epochs: int, over_s: float) -> int:
    """Let final keys arrive at both ends in another order each, some at one end only."""
    rng = random.Random(pair.rng.random())
    arrivals = []
    n_unequal = 0
    for epoch in range(1, n_epochs + 1):
        source = LINK if rng.random() < 0.7 else OTHER_LINK
        key = rng.randbytes(rng.choice((100, 300, 700, 5000, 65_000 if epoch % 9 == 0 else 90)))
        other_key = key
        if rng.random() < 0.01:
            other_key = bytes([key[0] ^ 1]) + key[1:]
            n_unequal += 1
        ends = rng.choices(("both", "alice", "bob"), (8, 1, 1))[0]
        if ends != "bob":
            arrivals.append((rng.uniform(0, over_s), pair.alice, source, epoch, key))
        if ends != "alice":
            arrivals.append((rng.uniform(0, over_s), pair.bob, source, epoch, other_key))
    arrivals.sort(key=lambda arrival: arrival[0])
    begun_s = pair.clock.monotonic_s()
    for at_s, kme, source, epoch, key in arrivals:
        await pair.clock.sleep(max(0.0, begun_s + at_s - pair.clock.monotonic_s()))
        await kme.ingest(source, epoch, key)
    return n_unequal


async def live_through_chaos(clock: VirtualClock, seed: int) -> SimulatedPair:
    rng = random.Random(seed)
    chances = Chances(
        LinkFaults(
            drop=rng.uniform(0, 0.3),
            lose_answer=rng.uniform(0, 0.3),
            duplicate=rng.uniform(0, 0.5),
            max_delay_s=rng.choice((0.01, 0.5, 3.0)),
        ),
        unavailable=rng.choice((0.0, 0.02)),
        max_pause_s=rng.choice((0.0, 0.05)),
        max_life_steps=rng.choice((60, 300, 1000, None)),
    )
    pair = SimulatedPair(clock, seed, chances)
    pair.begin()
    n_unequal = await feed(pair, n_epochs=60, over_s=60)
    pair.heal()
    await pair.until(lambda: is_settled(pair))
    await pair.end()
    await check_blocks(pair)
    kinds = await kinds_of_incidents(pair)
    assert kinds <= ({IncidentKind.UNEQUAL_BLOCK} if n_unequal else set())
    assert pair.witness.verdicts
    return pair


@pytest.mark.parametrize("batch", range(6))
def test_no_schedule_of_losses_and_crashes_makes_the_two_disagree(batch: int) -> None:
    n_starts = n_blocks = n_expiries = 0
    for seed in range(25 * batch, 25 * (batch + 1)):
        pair = run_virtual(partial(live_through_chaos, seed=seed))
        n_starts += pair.alice.n_starts + pair.bob.n_starts
        n_blocks += len(pair.witness.digests)
        n_expiries += pair.witness.n_expiries
    assert n_starts > 25 * 4, "hardly anything died"
    assert n_blocks > 25 * 3
    assert n_expiries > 25, "hardly any frontier was noted"


async def form_blocks(clock: VirtualClock, alice_steps: int | None, bob_steps: int | None) -> int:
    """Form two blocks while a process dies at a certain step; return how many it takes."""
    pair = SimulatedPair(clock, seed=5)
    for epoch, n_bytes in ((1, 400), (2, 300), (3, 65_300), (4, 600)):
        key = random.Random(epoch).randbytes(n_bytes)
        for kme in pair.both:
            await kme.ingest(LINK, epoch, key)
    pair.begin(alice_steps, bob_steps)
    await pair.until(lambda: is_settled(pair))
    n_steps = pair.alice.fuse.n_steps if bob_steps is None else pair.bob.fuse.n_steps
    await pair.end()
    await check_blocks(pair)
    assert not await kinds_of_incidents(pair)
    assert sum(block.n_bytes for block in await all_blocks(pair)) == 66_600
    return n_steps


async def all_blocks(pair: SimulatedPair) -> list[KeyBlock]:
    blocks = [
        await pair.alice.store.block(pair.bob.local, number) for number in pair.witness.digests
    ]
    return [block for block in blocks if block is not None]


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_crash_at_any_single_step_loses_and_doubles_nothing(who: str) -> None:
    def run(step: int) -> int:
        steps = (step, None) if who == "leader" else (None, step)
        return run_virtual(lambda clock: form_blocks(clock, *steps))

    n_steps = run(10**9)
    assert n_steps > 50
    for step in range(1, n_steps + 1):
        run(step)


def test_two_crashes_at_random_steps_lose_and_double_nothing() -> None:
    rng = random.Random(11)
    for _ in range(150):
        steps = rng.randint(1, 120), rng.randint(1, 120)
        run_virtual(lambda clock, steps=steps: form_blocks(clock, *steps))  # type: ignore[misc]


def test_a_dead_peer_does_not_slow_the_others_down() -> None:
    async def main(clock: VirtualClock) -> None:
        dead, slow, quick = KmeId("kme-dead"), KmeId("kme-slow"), KmeId("kme-quick")
        links = {peer: ScriptedLink() for peer in (dead, slow, quick)}

        def never(_heartbeat: Heartbeat) -> HeartbeatAnswer:
            raise PeerUnavailableError("no route")

        async def hang(heartbeat: Heartbeat) -> HeartbeatAnswer:
            await clock.sleep(1e6)
            return accepted(heartbeat)

        links[dead].on_heartbeat = never
        links[slow].heartbeat = hang  # type: ignore[method-assign]
        store = MemoryStore(ALICE_KME)
        await store.ingest(quick, LINK, Epoch(1), [Secret(bytes(range(200)) * 4)])
        peers = [(config_of(peer), link) for peer, link in links.items()]
        pairing = Pairing(ALICE_KME, store, clock, peers)
        stop = asyncio.Event()
        running = asyncio.create_task(pairing.run(stop))
        for peer in links:
            await pairing.on_heartbeat(peer, FIRST_HEARTBEAT)
        await clock.sleep(10)
        assert [proposal.number for proposal in links[quick].proposals] == [1]
        pairing.require_alive(quick)
        for peer in (dead, slow):
            with pytest.raises(PeerUnavailableError):
                pairing.require_alive(peer)
        stop.set()
        await running

    run_virtual(main)


def test_a_follower_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    async def main(clock: VirtualClock) -> None:
        asked_s: list[float] = []
        link = ScriptedLink()

        def refuse(_proposal: Proposal) -> Verdict:
            asked_s.append(clock.monotonic_s())
            raise PeerUnavailableError("busy")

        link.on_propose = refuse
        store = MemoryStore(ALICE_KME)
        await store.ingest(BOB_KME, LINK, Epoch(1), [Secret(bytes(600))])
        pairing = Pairing(ALICE_KME, store, clock, [(config_of(BOB_KME), link)])
        running = asyncio.create_task(pairing.run(asyncio.Event()))
        await pairing.on_heartbeat(BOB_KME, FIRST_HEARTBEAT)
        await clock.sleep(40)
        pauses_s = [later - earlier for earlier, later in pairwise(asked_s)]
        assert pauses_s[:6] == pytest.approx([0.5, 1, 2, 4, 4, 4])
        link.on_propose = lambda _: Verdict.EQUAL
        await clock.sleep(5)
        assert (await store.pairing(BOB_KME)).peer_settled == 1
        running.cancel()

    run_virtual(main)


def test_a_stranger_is_no_peer() -> None:
    async def main(clock: VirtualClock) -> None:
        pairing = Pairing(
            ALICE_KME, MemoryStore(ALICE_KME), clock, [(config_of(BOB_KME), ScriptedLink())]
        )
        stranger = KmeId("stranger")
        with pytest.raises(IdentityError):
            await pairing.on_held(stranger, [])
        with pytest.raises(IdentityError):
            pairing.require_alive(stranger)
        with pytest.raises(IdentityError):
            await pairing.heartbeat_from_now(stranger)

    run_virtual(main)


def test_only_final_keys_of_shared_sources_are_said_to_be_held() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(ALICE_KME)
        pairing = Pairing(ALICE_KME, store, clock, [(config_of(BOB_KME), ScriptedLink())])
        private = SourceId("private")
        for source in (LINK, private):
            await store.ingest(BOB_KME, source, Epoch(1), [Secret(b"key")])
        refs = [FinalKeyRef(source, Epoch(n)) for source in (LINK, private) for n in (1, 2)]
        assert await pairing.on_held(BOB_KME, refs) == [FinalKeyRef(LINK, Epoch(1))]

    run_virtual(main)
