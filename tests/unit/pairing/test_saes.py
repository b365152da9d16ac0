import asyncio

from kme.errors import PeerUnavailableError, StoreUnavailableError
from kme.ids import KmeId, SaeId
from kme.pairing.ports import OperatorLink
from kme.pairing.saes import LOOK_INTERVAL_S, TELL_INTERVAL_S, SaeTeller
from kme.registry.records import SaeList
from simulation import VirtualClock, run_virtual

B, C = KmeId("kme-b"), KmeId("kme-c")
ALICE, CAROL = SaeId("alice"), SaeId("carol")


class Heard:
    """The way to a peer that writes down what it is told."""

    def __init__(self, clock: VirtualClock) -> None:
        self.told: list[tuple[float, SaeList]] = []
        self.is_away = False
        self._clock = clock

    async def tell_saes(self, told: SaeList) -> None:
        if self.is_away:
            raise PeerUnavailableError("away")
        self.told.append((self._clock.monotonic_s() - 1000, told))


class Source:
    """A registry that changes when it is told to."""

    def __init__(self) -> None:
        self.current = SaeList(1, (ALICE,))
        self.fails = False

    async def told(self) -> SaeList:
        if self.fails:
            raise StoreUnavailableError("sealed")
        return self.current


class Stage:
    def __init__(self, clock: VirtualClock) -> None:
        self.source = Source()
        self.b, self.c = Heard(clock), Heard(clock)
        links: dict[KmeId, OperatorLink] = {B: self.b, C: self.c}  # type: ignore[dict-item]
        self.teller = SaeTeller(self.source, links, clock)
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(self.teller.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.running


def test_peers_are_told_at_the_start_after_a_change_and_now_and_then() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock)
        first, second = stage.source.current, SaeList(2, (ALICE, CAROL))
        await clock.sleep(7)
        stage.source.current = second
        await clock.sleep(TELL_INTERVAL_S + LOOK_INTERVAL_S)
        await stage.end()
        assert stage.b.told == stage.c.told
        assert stage.b.told == [(0, first), (10, second), (70, second)]

    run_virtual(main)


def test_a_peer_that_was_away_is_told_soon_and_holds_up_nobody() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock)
        stage.b.is_away = True
        await clock.sleep(12)
        stage.b.is_away = False
        await clock.sleep(10)
        await stage.end()
        assert [at for at, _ in stage.b.told] == [12]
        assert [at for at, _ in stage.c.told] == [0]

    run_virtual(main)


def test_a_registry_that_cannot_be_read_is_asked_again() -> None:
    async def main(clock: VirtualClock) -> None:
        stage = Stage(clock)
        stage.source.fails = True
        await clock.sleep(7)
        assert stage.b.told == []
        stage.source.fails = False
        await clock.sleep(5)
        await stage.end()
        assert len(stage.b.told) == 1

    run_virtual(main)
