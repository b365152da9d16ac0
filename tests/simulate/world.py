"""world - two KMEs, three SAEs and the weather: bad for a while, then good, then all is checked."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from kme.ids import Epoch, KmeId, SaeId
from kme.pairing.ports import PeerHandler
from kme.store.records import MIN_BLOCK_BYTES
from simulate.clocks import SkewedClock
from simulate.disks import DiskWeather, MemoryDisk, VaultDisk
from simulate.kme import LINK, Ground, SimulatedKme
from simulate.plan import Plan, StoreKind
from simulate.saes import ALICE, BOB, EVE, Saes
from simulate.trace import Trace
from simulate.witness import Witness
from simulation import LinkFaults, SimulatedCrash, VirtualClock

A, B = KmeId("kme-a"), KmeId("kme-b")
DISKS: Final[Mapping[StoreKind, type[MemoryDisk] | type[VaultDisk]]] = {
    StoreKind.MEMORY: MemoryDisk,
    StoreKind.VAULT: VaultDisk,
}
_ALL: Final = 100_000
_FAR_S: Final = 10 * 86_400
FIRST_SIZES: Final = (1500, 3000, 6000)
SIZES: Final = (120, 300, 520, 1500, 3000, 6000, 6000)


class World:
    """One run's world; made in the loop that runs it.

    Parameters
    ----------
    plan
        What it is like.
    clock
        True time.
    trace
        Where everything is noted.
    """

    def __init__(self, plan: Plan, clock: VirtualClock, trace: Trace) -> None:
        self.plan = plan
        self.rng = random.Random(f"world of {plan.seed}")
        self.tasks: set[asyncio.Task[None]] = set()
        self.ground = Ground(plan, clock, self.rng, trace, self.spawn)
        self.witness = Witness((A, B), plan.lifetime_s, heeds_at_once=not plan.n_workers)
        self.homes: dict[SaeId, KmeId] = {ALICE: A, BOB: B, EVE: A if plan.eve_at_a else B}
        self.kmes = {kme: self._kme(kme) for kme in (A, B)}
        for kme in (A, B):
            self.kmes[kme].reach = self._door(B if kme == A else A)
        self.saes = Saes(self.ground, self.witness, self.kmes, self.homes)
        self.n_unequal = 0
        self._epoch = 0
        self._failed: BaseException | None = None

    @property
    def both(self) -> tuple[SimulatedKme, SimulatedKme]:
        """The two KMEs."""
        return self.kmes[A], self.kmes[B]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on by itself; its failure is the run's."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    async def be_busy(self, *more: Callable[["World"], Coroutine[Any, Any, None]]) -> None:
        """Let everybody do their worst, in most runs after both got something to lose.

        Parameters
        ----------
        more
            What else begins with the bad weather.
        """
        for kme in self.both:
            kme.start()
        if self.plan.starts_calm:
            await self._stock_up()
        self._storm()
        a, b = (tuple(s for s in self.homes if self.homes[s] == kme) for kme in (A, B))
        works = [
            self.feed(),
            self.saes.master(ALICE, b),
            self.saes.master(BOB, a),
            self.saes.slave(ALICE),
            self.saes.slave(BOB),
            self.saes.slave(EVE),
            self.saes.thief(),
        ]
        if self.homes[EVE] == B:
            works.append(self.saes.master(EVE, (ALICE,)))
        for work in (*works, *(begin(self) for begin in more)):
            self.spawn(work)
        weather = (self._kill(), self._cut(), self._seal(), self._set_clocks())
        bad = [asyncio.create_task(one) for one in weather]
        while self.tasks:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
            self.check()
        for task in bad:
            task.cancel()

    async def _stock_up(self) -> None:
        """Give both KMEs a block to allocate from."""
        for _ in range(2):
            self.feed_one(self.rng.choice(FIRST_SIZES))
            await self.until(self.is_settled, "the first blocks are formed")

    def _storm(self) -> None:
        self.ground.trace.note("world", "has bad weather from now on")
        plan = self.plan
        for kme in self.both:
            faults = kme.way_out
            faults.drop, faults.lose_answer, faults.duplicate, faults.max_delay_s = plan.link
            kme.weather.unavailable = plan.unavailable
            kme.max_life_steps = plan.max_life_steps
            if plan.max_life_steps:
                for process in kme.processes:
                    n_left = self.rng.randint(1, plan.max_life_steps)
                    process.fuse._blows_at = process.fuse.n_steps + n_left

    def heal(self) -> None:
        """Let everything go well from now on."""
        self.ground.trace.note("world", "heals")
        self.saes.is_network_sound = True
        for kme in self.both:
            kme.way_out.heal()
            kme.weather.unavailable = 0.0
            kme.max_life_steps = 0
            for process in kme.processes:
                process.fuse._blows_at = None

    def check(self) -> None:
        """Raise what failed in the background.

        Raises
        ------
        BrokenRuleError
            If a rule was broken.
        """
        for kme in self.both:
            kme.check_lives()
            for link in kme.links:
                if link._broken:
                    raise link._broken[0]
        if self._failed is not None:
            raise self._failed

    def feed_one(self, n_bytes: int, *, is_unequal: bool = False, ends: str = "ab") -> None:
        """Let a final key arrive at both ends, or at one."""
        self._epoch += 1
        key = self.rng.randbytes(n_bytes)
        other = bytes([key[0] ^ 1]) + key[1:] if is_unequal else key
        self.n_unequal += is_unequal
        for kme, final_key, letter in ((A, key, "a"), (B, other, "b")):
            if letter in ends:
                self.kmes[kme].arriving.append((Epoch(self._epoch), final_key))
        self.ground.trace.note("link", f"final key {self._epoch} of {n_bytes} bytes to {ends}")

    def skip_epochs(self) -> None:
        """Go on with epochs that come after the present of every KME, however its clock is set."""
        self._epoch = Epoch.at_time(self.ground.clock.now_s() + _FAR_S).number

    async def feed(self) -> None:
        """Let final keys arrive while the SAEs are busy, the first ones at once."""
        plan, rng = self.plan, self.rng
        for n in range(plan.n_final_keys):
            if n > plan.n_final_keys // 4:
                await self.ground.clock.sleep(rng.uniform(0, 2 * plan.busy_s / plan.n_final_keys))
            ends = rng.choice("ab") if rng.random() < plan.one_sided else "ab"
            is_unequal = rng.random() < plan.unequal
            self.feed_one(rng.choice(SIZES), is_unequal=is_unequal, ends=ends)

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 120.0
    ) -> None:
        """Wait for something to come true.

        Raises
        ------
        BrokenRuleError
            If it doesn't within so many seconds.
        """
        end_s = self.ground.clock.monotonic_s() + timeout_s
        while not await condition():
            self.check()
            if self.ground.clock.monotonic_s() > end_s:
                raise StuckError(f"{what}: not within {timeout_s:g} s of good weather")
            await self.ground.clock.sleep(0.5)

    async def has_arrived(self) -> bool:
        """Return whether all final keys were taken in."""
        return not any(kme.arriving for kme in self.both)

    async def is_settled(self) -> bool:
        """Return whether all blocks are formed that can be, known and usable at both ends."""
        if not await self.has_arrived():
            return False
        a, b = [await kme.record() for kme in self.both]
        return (
            a.open_proposal is None
            and a.last == b.last
            and a.peer_settled == b.peer_settled == a.highest
            and await self._common_bytes() < MIN_BLOCK_BYTES
        )

    async def _common_bytes(self) -> int:
        """Return how much waits that both hold."""
        a, b = self.both
        mine = await a.disk.inspect().inbox(a.peer, LINK, None, _ALL)
        here = await b.disk.inspect().held(b.peer, [entry.ref for entry in mine])
        return sum(entry.n_bytes for entry in here)

    # Weather

    def _kme(self, kme: KmeId) -> SimulatedKme:
        plan, clock, rng = self.plan, self.ground.clock, self.rng
        peer = B if kme == A else A

        async def pause() -> None:
            if plan.max_pause_s:
                await clock.sleep(rng.uniform(0, plan.max_pause_s))

        own_clock = SkewedClock(
            clock, 1 + rng.uniform(-plan.skew, plan.skew), rng.uniform(-60, 60) * bool(plan.skew)
        )
        return SimulatedKme(
            self.ground,
            kme,
            peer,
            DISKS[plan.store](kme, peer, lambda record: self.witness.saw_record(kme, record)),
            DiskWeather(pause, rng, partial(self.ground.trace.note, kme), late=plan.late),
            own_clock,
            tuple(self.homes.items()),
            LinkFaults(),
        )

    def _door(self, kme: KmeId) -> Callable[[], PeerHandler | None]:
        return lambda: self.kmes[kme].pairing

    async def _kill(self) -> None:
        mean_s = self.plan.kill_every_s
        while mean_s:
            await self.ground.clock.sleep(self.rng.uniform(0, 2 * mean_s))
            kme = self.rng.choice(self.both)
            if kme.processes:
                await kme.give_up_one()

    async def _cut(self) -> None:
        mean_s = self.plan.cut_every_s
        while mean_s:
            await self.ground.clock.sleep(self.rng.uniform(0, 2 * mean_s))
            cut = self.rng.choice(([A], [B], [A, B]))
            self.ground.trace.note("link", f"is cut for what {' and '.join(cut)} send")
            self.ground.trace.count("partitions")
            for kme in cut:
                self.kmes[kme].way_out.drop = 1.0
            await self.ground.clock.sleep(self.rng.uniform(0.5, mean_s))
            for kme in cut:
                self.kmes[kme].way_out.drop = self.plan.link[0]
            self.ground.trace.note("link", "is whole again")

    async def _seal(self) -> None:
        mean_s = self.plan.outage_every_s
        while mean_s:
            await self.ground.clock.sleep(self.rng.uniform(0, 2 * mean_s))
            kme = self.rng.choice(self.both)
            self.ground.trace.note(kme.local, "has no store for a while")
            self.ground.trace.count("outages")
            kme.weather.unavailable = 1.0
            await self.ground.clock.sleep(self.rng.uniform(0.2, mean_s))
            kme.weather.unavailable = self.plan.unavailable
            self.ground.trace.note(kme.local, "has its store again")

    async def _set_clocks(self) -> None:
        while self.plan.skew:
            await self.ground.clock.sleep(self.rng.uniform(0, self.plan.busy_s))
            kme = self.rng.choice(self.both)
            kme.clock.jump(self.rng.uniform(-3600, 3600))
            self.ground.trace.note(kme.local, "has its clock set")

    def _done(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SimulatedCrash):
            self._failed = self._failed or error


class StuckError(AssertionError):
    """The system doesn't go on where it must."""
