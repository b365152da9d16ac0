"""Two KMEs, honest and hostile SAEs, processes that die and stores that fail: nothing goes wrong.

Masters name one slave or more, at the other KME and at their own; what a KME
hands to the other for further slaves is lost, or comes twice.

Every run is one seed. What is checked all the time, by `Witness`:

- no granule is under two key_IDs, be it of a key or of a pad,
- no key_ID is delivered twice to an SAE that draws it,
- all SAEs have the same bytes for every id,
- only the SAEs that the master named get a key,
- no key expires before its lifetime is over, though frontiers come late and twice.

And at the end of each run: what a master was given, and no failed draw may have
burnt, can still be drawn; what status promises can be had; once all is used up,
and a lifetime later, nothing can be drawn and neither KME holds any key bytes.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

import pytest

from grant_links import DirectGrants, LossyGrants
from kme.errors import (
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    OverlapError,
    UnavailableError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.pairing.expiry import KeyExpiry
from kme.store.memory import MemoryStore
from kme.store.records import Frontier
from kme.supply.cache import BlockCache
from kme.supply.draw import DrawPorts
from kme.supply.grantee import Grantee
from kme.supply.grants import Delivery, GrantHandler, GrantLink
from kme.supply.ports import Key
from kme.supply.supply import LinkSupply, SupplyLimits
from simulation import (
    CrashingStore,
    Fuse,
    SimulatedCrash,
    StoreFaults,
    VirtualClock,
    run_virtual,
)
from supply_pair import (
    ALICE,
    BOB,
    CAROL,
    EVE,
    RESIDENTS,
    A,
    B,
    BlockMaker,
    GranuleBook,
    SimulatedLiveness,
    directory_of,
)

T = TypeVar("T")
HOMES: Final = dict(RESIDENTS)
PAIRS: Final = (frozenset({A, B}), frozenset({A}), frozenset({B}))
SIZES: Final = (1, 8, 16, 32, 32, 32, 33, 64, 500)


GONE = KeyNotFoundError, NotEntitledError
"""What is said of a key that expired; the latter where further slaves can still draw it."""


@dataclass
class Issued:
    """A key that a master was given, for one of the slaves that it named."""

    master: SaeId
    slave: SaeId
    key: Key
    asked_s: float
    is_granted: bool = False
    is_drawn: bool = False
    may_be_burnt: bool = False


def pair_of(one: SaeId, other: SaeId) -> frozenset[KmeId]:
    """Return the KMEs whose block a key of two SAEs lies in."""
    return frozenset({HOMES[one], HOMES[other]})


class Witness:
    """Sees every key that leaves a KME, and fails the test if it should not have."""

    def __init__(self) -> None:
        self.issued: dict[tuple[KeyId, SaeId], Issued] = {}
        self.n_drawn = 0
        self._books = {pair: GranuleBook() for pair in PAIRS}
        self._pads: set[KeyId] = set()

    def saw_new(
        self, master: SaeId, slaves: tuple[SaeId, ...], keys: list[Key], asked_s: float
    ) -> None:
        for key in keys:
            self._books[pair_of(master, slaves[0])].note(key.key_id)
            for slave in slaves:
                assert (key.key_id, slave) not in self.issued
                self.issued[key.key_id, slave] = Issued(
                    master, slave, key, asked_s, is_granted=slave != slaves[0]
                )

    def saw_pads(self, delivery: Delivery) -> None:
        for key in delivery.keys:
            if key.pad_id not in self._pads:
                self._pads.add(key.pad_id)
                self._books[frozenset({A, B})].note(key.pad_id)

    def saw_drawn(self, master: SaeId, caller: SaeId, keys: list[Key]) -> None:
        for key in keys:
            issued = self.issued[key.key_id, caller]
            assert issued.master == master
            assert not issued.is_drawn
            assert issued.key == key
            issued.is_drawn = True
            self.n_drawn += 1

    def lost_track(self, caller: SaeId, key_ids: list[KeyId]) -> None:
        """Note a draw whose outcome nobody knows."""
        for key_id in key_ids:
            if (key_id, caller) in self.issued:
                self.issued[key_id, caller].may_be_burnt = True

    def waiting(self, slave: SaeId) -> list[Issued]:
        return [
            issued
            for issued in self.issued.values()
            if issued.slave == slave and not issued.is_drawn
        ]


@dataclass
class Process:
    """One life of a KME."""

    supply: LinkSupply
    grantee: Grantee
    liveness: SimulatedLiveness
    fuse: Fuse
    store: CrashingStore
    expiry: KeyExpiry
    expiring: "asyncio.Task[None]" = field(init=False)

    def __post_init__(self) -> None:
        self.expiring = asyncio.create_task(self.expiry.run())


@dataclass
class Weather:
    """How bad things are.

    Parameters
    ----------
    unavailable
        Probability that a store's call fails, half of them after it took effect.
    refused_heartbeat
        Probability that the supply's heartbeat is refused, or a message to the
        other KME is lost.
    max_pause_s
        Every call to a store takes up to so long.
    lifetime_s
        How long keys may be drawn.
    """

    unavailable: float = 0.0
    refused_heartbeat: float = 0.0
    max_pause_s: float = 0.0
    lifetime_s: int = 3600


@dataclass
class Site:
    """A KME with all its lives: the store stays, processes come and go."""

    kme: KmeId
    store: MemoryStore
    clock: VirtualClock
    rng: random.Random
    weather: Weather
    links: Callable[[Fuse], Mapping[KmeId, GrantLink]]
    n_lives: int = 0
    process: Process = field(init=False)

    async def pause(self) -> None:
        await self.clock.sleep(self.rng.uniform(0, self.weather.max_pause_s))

    def maybe_refuse(self, liveness: SimulatedLiveness) -> Callable[[], Awaitable[None]]:
        async def heartbeat() -> None:
            self.process.fuse.step()
            await self.pause()
            if self.rng.random() < self.weather.refused_heartbeat:
                liveness.n_refused_heartbeats = 1
            self.process.fuse.step()

        return heartbeat

    async def start(self, blows_at: int | None = None) -> None:
        """Begin a new life; what the old one still tries comes to nothing."""
        if self.n_lives:
            self.process.expiring.cancel()
        self.store = self.store.reopened()
        self.n_lives += 1
        fuse = Fuse(blows_at)
        faults = StoreFaults(self.pause, self.weather.unavailable, self.rng)
        liveness = SimulatedLiveness()
        liveness._pause = self.maybe_refuse(liveness)
        store = CrashingStore(self.store, fuse, faults)
        store, directory = CrashingStore(self.store, fuse, faults), directory_of(self.kme)
        supply = LinkSupply(
            directory,
            store,
            liveness,
            self.clock,
            f"worker-{self.n_lives}",
            SupplyLimits(cache_bytes=4096, local_pairs=True),
            links=self.links(fuse),
        )
        peer = B if self.kme == A else A
        expiry = KeyExpiry(peer, store, self.clock, self.weather.lifetime_s)
        ports = DrawPorts(directory, store, BlockCache(store), self.clock)
        grantee = Grantee(ports, liveness)
        self.process = Process(supply, grantee, liveness, fuse, store, expiry)
        while True:
            try:
                await supply.open()
            except UnavailableError:
                continue
            except SimulatedCrash:
                pass
            return

    async def restart_when_dead(self) -> None:
        while True:
            await self.process.fuse.blown.wait()
            await self.clock.sleep(self.rng.uniform(0, 0.5))
            await self.start(self.rng.randrange(1, 400))


class World:
    """Both sites, all SAEs, and the witness."""

    def __init__(self, clock: VirtualClock, rng: random.Random, weather: Weather) -> None:
        self.clock = clock
        self.rng = rng
        self.weather = weather
        self.witness = Witness()
        self.sites = {
            kme: Site(kme, MemoryStore(kme), clock, rng, weather, partial(self._links, kme))
            for kme in (A, B)
        }

    def _links(self, kme: KmeId, fuse: Fuse) -> Mapping[KmeId, GrantLink]:
        """Return the way of one process to the other KME."""
        other = B if kme == A else A

        def handler() -> GrantHandler | None:
            process = self.sites[other].process
            return None if process.fuse.is_blown else process.grantee

        way = DirectGrants(kme, handler, saw=self.witness.saw_pads)
        site = self.sites[kme]
        lossy = LossyGrants(
            way, fuse.step, site.pause, self.rng, lambda: self.weather.refused_heartbeat
        )
        return {other: lossy}

    @property
    def blocks(self) -> BlockMaker:
        return self._blocks

    async def begin(self, n_blocks: int) -> None:
        stores = tuple(site.store for site in self.sites.values())
        self._blocks = BlockMaker(stores, self.rng, lifetime_s=self.weather.lifetime_s)
        for _ in range(n_blocks):
            await self.add_block()
        for site in self.sites.values():
            await site.start()

    async def add_block(self) -> None:
        self._blocks.stores = tuple(site.store for site in self.sites.values())
        await self._blocks.add(self.rng.choice([A, B]), self.rng.randrange(64, 3000))

    async def call(self, home: KmeId, ask: Callable[[LinkSupply], Awaitable[T]]) -> T:
        """Ask a KME; an answer of a process that died meanwhile doesn't arrive."""
        process = self.sites[home].process
        if process.fuse.is_blown:
            raise UnavailableError("connection refused")
        try:
            answer = await ask(process.supply)
        except SimulatedCrash:
            raise UnavailableError("connection lost") from None
        if process.fuse.is_blown:
            raise UnavailableError("connection lost")
        return answer

    async def get_new(
        self, master: SaeId, slave: SaeId, n_keys: int, n_bytes: int, *more: SaeId
    ) -> list[Key]:
        asked_s = self.clock.now_s()
        keys = await self.call(
            HOMES[master], lambda supply: supply.new_keys(master, slave, n_keys, n_bytes, more)
        )
        assert [len(key.key) for key in keys] == [n_bytes] * n_keys
        self.witness.saw_new(master, (slave, *more), keys, asked_s)
        return keys

    async def get_drawn(self, master: SaeId, caller: SaeId, key_ids: list[KeyId]) -> list[Key]:
        try:
            keys = await self.call(
                HOMES[caller], lambda supply: supply.keys_by_id(master, caller, key_ids)
            )
        except UnavailableError:
            self.witness.lost_track(caller, key_ids)
            raise
        except OverlapError:
            pytest.fail("two ids of one range were given out")
        assert [key.key_id for key in keys] == key_ids
        self.witness.saw_drawn(master, caller, keys)
        return keys

    def may_be_expired(self, issued: Issued) -> bool:
        return self.clock.now_s() >= issued.asked_s + self.weather.lifetime_s

    async def master(self, master: SaeId, slaves: tuple[SaeId, ...], n_calls: int) -> None:
        """Ask for new keys again and again, for one slave or for several."""
        for _ in range(n_calls):
            await self.clock.sleep(self.rng.uniform(0, 0.2))
            n_keys = self.rng.choice((1, 1, 1, 2, 5, 20))
            n_slaves = self.rng.choice((1, 1, 2, 3))
            named = self.rng.sample(slaves, min(n_slaves, len(slaves)))
            try:
                await self.get_new(master, named[0], n_keys, self.rng.choice(SIZES), *named[1:])
            except UnavailableError:
                continue

    async def slave(self, slave: SaeId, n_calls: int) -> None:
        """Draw what came in, in batches, sometimes what was drawn already."""
        for _ in range(n_calls):
            await self.clock.sleep(self.rng.uniform(0, 0.2))
            waiting = self.witness.waiting(slave)
            if not waiting:
                continue
            master = self.rng.choice(waiting).master
            mine = [issued for issued in waiting if issued.master == master]
            wanted = self.rng.sample(mine, min(len(mine), self.rng.choice((1, 1, 3, 10))))
            try:
                await self.get_drawn(master, slave, [issued.key.key_id for issued in wanted])
            except UnavailableError:
                continue
            except GONE:
                assert any(
                    issued.may_be_burnt or issued.is_drawn or self.may_be_expired(issued)
                    for issued in wanted
                )

    async def thief(self, thief: SaeId, n_calls: int) -> None:
        """Try ids of others, ids with another place or tag, and ids drawn before."""
        for _ in range(n_calls):
            await self.clock.sleep(self.rng.uniform(0, 0.2))
            if not self.witness.issued:
                continue
            issued = self.rng.choice(list(self.witness.issued.values()))
            key_id = issued.key.key_id
            master = self.rng.choice((issued.master, issued.master, ALICE, CAROL))
            forged = self.rng.choice(
                (
                    key_id,
                    replace(key_id, tag=key_id.tag ^ 1 << self.rng.randrange(62)),
                    replace(key_id, offset_granules=key_id.offset_granules ^ 1),
                    replace(key_id, n_bytes=key_id.n_bytes % KeyId.MAX_BYTES + 1),
                    replace(key_id, block_number=self.rng.randrange(40)),
                )
            )
            if (forged, thief) in self.witness.issued:
                continue
            with pytest.raises((KeyNotFoundError, NotEntitledError, UnavailableError)) as refusal:
                await self.call(HOMES[thief], partial(_ask_for, master, thief, forged))
            assert not isinstance(refusal.value, OverlapError)

    async def pairing(self, n_blocks: int) -> None:
        """Add a block now and then."""
        for _ in range(n_blocks):
            await self.clock.sleep(self.rng.uniform(0, 0.4))
            await self.add_block()

    async def frontiers(self, sender: KmeId, receiver: KmeId) -> None:
        """Carry what heartbeats say of blocks, sometimes late, lost or once more."""
        said = [Frontier()]
        while True:
            await self.clock.sleep(self.rng.uniform(0, 0.6))
            process = self.sites[sender].process
            if not process.fuse.is_blown:
                with suppress(UnavailableError, SimulatedCrash):
                    said.append(await process.store.frontier(receiver))
            await self.clock.sleep(self.rng.uniform(0, 0.6))
            if self.rng.random() < 0.8:
                heard = said[-1] if self.rng.random() < 0.7 else self.rng.choice(said)
                self.sites[receiver].process.expiry.heard(heard)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self.weather.unavailable = self.weather.refused_heartbeat = 0.0
        for site in self.sites.values():
            site.process.store.faults.unavailable = 0.0

    async def check_promises(self) -> None:
        """Draw everything that can't have been burnt; take what status promises."""
        for slave in HOMES:
            for issued in self.witness.waiting(slave):
                if not issued.may_be_burnt:
                    try:
                        await self.get_drawn(issued.master, slave, [issued.key.key_id])
                    except GONE:
                        assert self.may_be_expired(issued)
        for master, slave in ((ALICE, BOB), (BOB, ALICE)):
            await self.check_stock(master, slave)

    async def check_stock(self, master: SaeId, slave: SaeId) -> None:
        """Take what status promises, and try to get more."""
        supply = self.sites[HOMES[master]].process.supply
        for n_bytes in self.rng.sample(SIZES, 4):
            n_promised = (await supply.stock(master, slave)).count_of(n_bytes)
            if n_promised:
                await self.get_new(master, slave, self.rng.randint(1, n_promised), n_bytes)
        stock = await supply.stock(master, slave)
        if stock.max_key_bytes:
            await self.get_new(master, slave, 1, stock.max_key_bytes)
        n_promised = (await supply.stock(master, slave)).count_of(8)
        if n_promised:
            await self.get_new(master, slave, n_promised, 8)
        with suppress(OutOfKeysError):
            # What a failing store kept from being given back is in stock again by now.
            n_promised = (await supply.stock(master, slave)).count_of(8)
            await self.get_new(master, slave, n_promised + 1, 8)
        n_promised = (await supply.stock(master, slave)).count_of(8)
        with pytest.raises(OutOfKeysError):
            await self.get_new(master, slave, n_promised + 1, 8)

    async def check_the_end(self) -> None:
        """Wait for a lifetime after all was used up: nothing is left of any key then."""
        for site in self.sites.values():
            await site.process.supply.close()
            await site.start()
        for kme, other in ((A, B), (B, A)):
            frontier = await self.sites[other].store.frontier(kme)
            self.sites[kme].process.expiry.heard(frontier)
        await self.clock.sleep(self.weather.lifetime_s * 1.1 + 130)
        for slave in HOMES:
            for issued in self.witness.waiting(slave):
                # Grants live by dates of their own, and no frontier tells of local blocks.
                if issued.is_granted or HOMES[issued.master] == HOMES[slave]:
                    continue
                with pytest.raises(GONE):
                    await self.get_drawn(issued.master, slave, [issued.key.key_id])
        for kme, other in ((A, B), (B, A)):
            for number in range(1, self._blocks.number + 1):
                assert await self.sites[kme].store.block(other, number) is None
            assert await self.sites[kme].store.incidents(10) == []


async def _ask_for(master: SaeId, caller: SaeId, key_id: KeyId, supply: LinkSupply) -> list[Key]:
    """Ask a KME for one key."""
    return await supply.keys_by_id(master, caller, [key_id])


def _ignore_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tasks of a dead process end with its death, and nobody mourns them."""
    if not isinstance(context.get("exception"), SimulatedCrash):
        loop.default_exception_handler(context)


async def _live(world: World, *, with_crashes: bool) -> None:
    """Let everybody do their worst for some seconds, then check what was promised."""
    asyncio.get_running_loop().set_exception_handler(_ignore_crashes)
    await world.begin(n_blocks=6)
    frontiers = [
        asyncio.create_task(world.frontiers(sender, receiver))
        for sender, receiver in ((A, B), (B, A))
    ]
    guards = []
    if with_crashes:
        for site in world.sites.values():
            site.process.fuse._blows_at = world.rng.randrange(1, 300)
            guards.append(asyncio.create_task(site.restart_when_dead()))
    async with asyncio.TaskGroup() as group:
        for task in (
            world.master(ALICE, (BOB, EVE, CAROL), 40),
            world.master(ALICE, (BOB,), 40),
            world.master(CAROL, (BOB, EVE), 40),
            world.master(BOB, (ALICE, CAROL, EVE), 40),
            world.slave(BOB, 50),
            world.slave(EVE, 50),
            world.slave(ALICE, 50),
            world.slave(CAROL, 50),
            world.thief(EVE, 60),
            world.pairing(12),
        ):
            group.create_task(task)
    for guard in guards:
        guard.cancel()
    world.heal()
    for site in world.sites.values():
        site.process.fuse._blows_at = None
        if site.process.fuse.is_blown or not site.process.supply._is_open:
            await site.start()
    await world.check_promises()
    for site in world.sites.values():
        await site.process.supply.close()
        assert await site.store.close_claims() == 0
        assert await site.store.incidents(10) == []
        await site.start()
    await world.add_block()
    await world.check_promises()
    for carrier in frontiers:
        carrier.cancel()
    await world.check_the_end()


def _run(seed: int, weather: Weather, *, with_crashes: bool) -> Witness:
    async def main(clock: VirtualClock) -> Witness:
        world = World(clock, random.Random(seed), weather)
        await _live(world, with_crashes=with_crashes)
        return world.witness

    return run_virtual(main)


@pytest.mark.parametrize("seed", range(12))
def test_in_good_weather_every_key_reaches_its_slave_once(seed: int) -> None:
    witness = _run(seed, Weather(max_pause_s=0.02), with_crashes=False)
    assert witness.n_drawn > 20
    assert not any(issued.may_be_burnt for issued in witness.issued.values())


@pytest.mark.parametrize("seed", range(25))
def test_stores_that_fail_with_unknown_outcome_repeat_no_key(seed: int) -> None:
    weather = Weather(unavailable=0.1, refused_heartbeat=0.1, max_pause_s=0.02)
    assert _run(seed, weather, with_crashes=False).n_drawn > 5


@pytest.mark.parametrize("seed", range(40))
def test_processes_that_die_repeat_no_key(seed: int) -> None:
    weather = Weather(unavailable=0.02, refused_heartbeat=0.05, max_pause_s=0.02)
    assert _run(seed, weather, with_crashes=True).n_drawn > 5


@pytest.mark.parametrize("seed", range(40))
def test_keys_that_nobody_draws_expire_and_not_before_their_lifetime(seed: int) -> None:
    weather = Weather(
        unavailable=0.02, refused_heartbeat=0.05, max_pause_s=0.02, lifetime_s=1 + seed % 4
    )
    witness = _run(seed, weather, with_crashes=seed % 2 == 0)
    assert witness.n_drawn > 5
    assert not all(issued.is_drawn for issued in witness.issued.values())


def _steps_of(scenario: Callable[[World], Awaitable[None]], kme: KmeId) -> int:
    """Count the steps of a scenario that runs undisturbed."""

    async def main(clock: VirtualClock) -> int:
        world = World(clock, random.Random(0), Weather())
        await world.begin(n_blocks=4)
        n_before = world.sites[kme].process.fuse.n_steps
        await scenario(world)
        return world.sites[kme].process.fuse.n_steps - n_before

    return run_virtual(main)


async def _enc_then_dec(world: World) -> None:
    """Get keys in both directions and of several sizes, and draw each at once."""
    for master, *slaves in ((ALICE, BOB), (BOB, ALICE, EVE, CAROL), (CAROL, ALICE, EVE)):
        for n_keys, n_bytes in ((1, 32), (12, 33), (3, 100)):
            try:
                keys = await world.get_new(master, slaves[0], n_keys, n_bytes, *slaves[1:])
                for slave in slaves:
                    await world.get_drawn(master, slave, [key.key_id for key in keys])
            except KmeError:
                continue
            await world.clock.sleep(0.3)


@pytest.mark.parametrize("kme", [A, B])
def test_a_process_may_die_before_and_after_every_single_step(kme: KmeId) -> None:
    n_steps = _steps_of(_enc_then_dec, kme)
    assert n_steps > 20

    async def main(blows_after: int, clock: VirtualClock) -> None:
        asyncio.get_running_loop().set_exception_handler(_ignore_crashes)
        world = World(clock, random.Random(0), Weather())
        await world.begin(n_blocks=4)
        fuse = world.sites[kme].process.fuse
        fuse._blows_at = fuse.n_steps + blows_after
        await _enc_then_dec(world)
        assert fuse.is_blown
        await world.sites[kme].start()
        await _enc_then_dec(world)
        await world.check_promises()

    for blows_after in range(1, n_steps + 1):
        run_virtual(partial(main, blows_after))
