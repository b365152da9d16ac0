"""kme - one simulated KME: a disk that stays, and processes that come, die, and are stopped."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kme.errors import UnavailableError
from kme.ids import Epoch, KmeId, SaeId, SourceId
from kme.pairing.pair import PeerConfig
from kme.pairing.pairing import Pairing
from kme.pairing.ports import Liveness, PeerHandler
from kme.secret import Secret
from kme.store.ports import Store
from kme.store.records import PairingRecord, SourceClass
from kme.supply.directory import SaeDirectory
from kme.supply.supply import LinkSupply, SupplyLimits
from kme.workers.feed import LivenessSpeaker
from kme.workers.listener import LivenessListener
from memory_streams import Streams, stream_pair
from simulate.clocks import SkewedClock
from simulate.disks import Disk, DiskWeather
from simulate.network import CountingLink
from simulate.plan import Plan
from simulate.trace import Trace
from simulated_pair import raise_unless_crash
from simulation import Fuse, LinkEnds, LinkFaults, SimulatedCrash, VirtualClock

T = TypeVar("T")

LINK = SourceId("link")
LEASE_S = 5.0
_LOOK_S = 3.0
_ASKED_S = 1.0
_MAX_DOWN_S = 1.5
_LIMITS = SupplyLimits(cache_bytes=4096)


@dataclass
class Process:
    """One process: it lives until its fuse blows.

    Parameters
    ----------
    name
        A name that no process had before.
    fuse
        Its life.
    store
        The KME's store as it sees it.
    """

    name: str
    fuse: Fuse
    store: Store
    supply: LinkSupply | None = None
    liveness: Liveness | None = None

    async def live(self, *bodies: Coroutine[Any, Any, None]) -> None:
        """Run until the fuse blows; then nothing of it goes on."""
        running = [asyncio.create_task(body) for body in bodies]
        dying = asyncio.create_task(self.fuse.blown.wait())
        await asyncio.wait({*running, dying}, return_when=asyncio.FIRST_COMPLETED)
        self.fuse.blow()
        for task in (*running, dying):
            task.cancel()
        for error in await asyncio.gather(*running, dying, return_exceptions=True):
            raise_unless_crash(error)


@dataclass
class Ground:
    """What both KMEs share: true time, dice, the trace, and how to begin something."""

    plan: Plan
    clock: VirtualClock
    rng: random.Random
    trace: Trace
    spawn: Callable[[Coroutine[Any, Any, None]], None]


@dataclass
class SimulatedKme:
    """One KME.

    Parameters
    ----------
    ground
        Time, dice, trace.
    local, peer
        This KME and the other one.
    disk
        What it keeps.
    weather
        What goes wrong at its store.
    clock
        Its time.
    residents
        Which SAE lives where.
    way_out
        How bad the link to the other KME is.
    reach
        Returns what answers at the other KME now.
    """

    ground: Ground
    local: KmeId
    peer: KmeId
    disk: Disk
    weather: DiskWeather
    clock: SkewedClock
    residents: tuple[tuple[SaeId, KmeId], ...]
    way_out: LinkFaults
    reach: Callable[[], PeerHandler | None] = field(init=False)
    max_life_steps: int = 0
    pairing: Pairing | None = None
    speaker: LivenessSpeaker | None = None
    arriving: deque[tuple[Epoch, bytes]] = field(default_factory=deque)
    workers: list[Process] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    links: list[CountingLink] = field(default_factory=list)
    _dead: list[str] = field(default_factory=list)
    _lines: list[Streams] = field(default_factory=list)
    _lives: list["asyncio.Task[None]"] = field(default_factory=list)
    _n_started: int = 0
    _n_asked: int = 0
    _is_off: bool = False

    async def record(self) -> PairingRecord:
        """Return what is written about the pair."""
        return await self.disk.inspect().pairing(self.peer)

    # Lives

    def start(self) -> None:
        """Start all processes; each is started again whenever it has died."""
        self._is_off = False
        n_workers = self.ground.plan.n_workers
        kinds = [self._elected, *[self._worker] * n_workers] if n_workers else [self._all_in_one]
        for kind in (*kinds, self._watcher):
            self._lives.append(asyncio.create_task(self._live_on(kind)))

    async def kill_all(self) -> None:
        """End all processes at once, and start none again."""
        self._is_off = True
        for process in self.processes:
            process.fuse.blow()
        await asyncio.gather(*self._lives)
        self._lives, self._dead = [], []

    async def stop_in_order(self) -> None:
        """Have all workers give back what they don't need, then end."""
        for process in list(self.workers):
            await process.supply.close()  # type: ignore[union-attr]
        await self.kill_all()

    async def give_up_one(self) -> None:
        """Kill some process, or stop it in order."""
        process = self.ground.rng.choice(self.processes)
        if process.supply is not None and self.ground.rng.random() < 0.3:
            self.ground.trace.note(process.name, "is stopped")
            self.workers.remove(process)
            try:
                await process.supply.close()
            except SimulatedCrash:
                return
            finally:
                process.fuse.blow()
        process.fuse.blow()

    def check_lives(self) -> None:
        """Raise what no process may die of."""
        for task in self._lives:
            if task.done():
                task.result()

    async def _live_on(self, kind: Callable[[Process], Awaitable[None]]) -> None:
        while not self._is_off:
            process = self._new_process(kind.__name__.strip("_"))
            await kind(process)
            self.processes.remove(process)
            self._dead.append(process.name)
            self.ground.trace.note(process.name, "is dead")
            self.ground.trace.count("deaths")
            if not self._is_off:
                await self.ground.clock.sleep(self.ground.rng.uniform(0.05, _MAX_DOWN_S))

    def _new_process(self, kind: str) -> Process:
        self._n_started += 1
        rng, most = self.ground.rng, self.max_life_steps
        fuse = Fuse(rng.randint(1, most) if most and rng.random() < 0.7 else None)
        name = f"{self.local[-1]}-{kind}-{self._n_started}"
        process = Process(name, fuse, self.disk.open(fuse, self.weather))
        self.processes.append(process)
        self.ground.trace.note(name, "starts")
        return process

    # Kinds of processes

    async def _all_in_one(self, process: Process) -> None:
        """Live as in embedded mode: pairing and supply in one process."""

        async def heed_floors() -> None:
            if process.supply is not None:
                await process.supply.heed_floors()

        self.pairing = pairing = self._new_pairing(process, heed_floors)
        await process.live(
            pairing.run(asyncio.Event()), self._supply(process, pairing, closes_lapsed=True)
        )
        self.pairing = None

    async def _elected(self, process: Process) -> None:
        """Live as the elected worker does beside its SAEs: pairing, and a voice for the others."""
        await process.live(self._lead(process))
        self.pairing = self.speaker = None
        for _, writer in self._lines:
            writer.close()
        self._lines = []

    async def _lead(self, process: Process) -> None:
        await _until_there(lambda: self._close_lapsed_claims(process), self.clock)
        self.pairing = pairing = self._new_pairing(process, self._ask_workers)
        self.speaker = LivenessSpeaker(pairing, self.clock)
        await asyncio.gather(pairing.run(asyncio.Event()), self.speaker._keep_speaking())

    async def _close_lapsed_claims(self, process: Process) -> None:
        """Close what no process that lives has claimed."""
        # In this order: whoever has a claim was alive before.
        claimants = self.disk.claimants()
        for name in sorted(claimants - {one.name for one in self.processes}):
            await process.store.close_claims(name)

    async def _worker(self, process: Process) -> None:
        """Live as a worker: SAEs' requests, told by the elected one how the peer is."""
        listener = LivenessListener(self.clock, LEASE_S)
        await process.live(
            listener.listen(self._connect),
            self._supply(process, listener, closes_lapsed=False),
            self._upkeep(process),
        )

    async def _watcher(self, process: Process) -> None:
        """Live as the watcher does: final keys into the inbox, each until the store answers."""
        await process.live(self._take_in(process))

    # Bodies

    async def _supply(self, process: Process, liveness: Liveness, *, closes_lapsed: bool) -> None:
        directory = SaeDirectory(self.local, (self.peer,), self.residents)
        supply = LinkSupply(directory, process.store, liveness, self.clock, process.name, _LIMITS)
        await _until_there(lambda: supply.open(closes_lapsed=closes_lapsed), self.clock)
        process.supply, process.liveness = supply, liveness
        if isinstance(liveness, LivenessListener):
            liveness.on_silence = supply.drop_claims
        self.workers.append(process)
        try:
            await asyncio.Event().wait()
        finally:
            if process in self.workers:
                self.workers.remove(process)

    async def _upkeep(self, process: Process) -> None:
        """Do what a worker does now and then: heed floors, close claims of dead workers."""
        while True:
            await self._until_asked(_LOOK_S)
            try:
                if process.supply is not None:
                    await process.supply.heed_floors()
                for name in list(self._dead):
                    await process.store.close_claims(name)
                    if name in self._dead:
                        self._dead.remove(name)
            except UnavailableError:
                continue

    async def _ask_workers(self) -> None:
        """Have all workers look at the floors soon."""
        self._n_asked += 1

    async def _until_asked(self, at_most_s: float) -> None:
        n_asked, end_s = self._n_asked, self.clock.monotonic_s() + at_most_s
        while self._n_asked == n_asked and self.clock.monotonic_s() < end_s:
            await self.clock.sleep(_ASKED_S)

    async def _take_in(self, process: Process) -> None:
        while True:
            while not self.arriving:
                await self.clock.sleep(0.2)
            epoch, key = self.arriving[0]
            try:
                await process.store.ingest(self.peer, LINK, epoch, [Secret(key)])
            except UnavailableError:
                await self.clock.sleep(0.3)
                continue
            self.arriving.popleft()

    async def _connect(self) -> Streams:
        if self.speaker is None:
            raise ConnectionRefusedError
        ours, theirs = stream_pair()
        self._lines.append(theirs)
        task = asyncio.create_task(self.speaker.attend(*theirs))
        task.add_done_callback(_end_quietly)
        return ours

    def _new_pairing(self, process: Process, heed_floors: Callable[[], Awaitable[None]]) -> Pairing:
        rng = self.ground.rng
        ends = LinkEnds(self.local, self.reach, process.fuse)
        link = CountingLink(ends, self.way_out, self.ground.clock, rng, self.ground.trace)
        self.links.append(link)
        config = PeerConfig(
            self.peer,
            {LINK: SourceClass.QKD},
            heartbeat_interval_s=1.0,
            lease_s=LEASE_S,
            gather_s=1.0,
            poll_s=0.5,
            max_backoff_s=2.0,
            lifetime_s=self.ground.plan.lifetime_s,
        )
        return Pairing(
            self.local,
            process.store,
            self.clock,
            [(config, link)],
            lambda: f"{rng.getrandbits(128):032x}",
            heed_floors,
        )


async def _until_there(call: Callable[[], Awaitable[T]], clock: SkewedClock) -> T:
    """Try until the store answers, as a starting process does."""
    while True:
        try:
            return await call()
        except UnavailableError:
            await clock.sleep(0.3)


def _end_quietly(task: "asyncio.Task[None]") -> None:
    """Let a line end with whichever of its two processes dies first."""
    if not task.cancelled():
        raise_unless_crash(task.exception())
