"""What the elected worker knows is what all workers know, or they know nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from kme.errors import PeerUnavailableError
from kme.ids import KmeId
from kme.pairing.ports import PeerLiveness
from kme.workers.feed import LivenessSpeaker
from kme.workers.listener import LivenessListener
from memory_streams import Streams, stream_pair
from simulation import VirtualClock, run_virtual

PEER = KmeId("kme-2")
LEASE_S = 10.0
UNKNOWN = PeerLiveness(None, None, "was not heard", None)


@dataclass
class Elected:
    """What an elected worker knows; a heartbeat takes a tenth of a second."""

    clock: VirtualClock
    state: PeerLiveness = UNKNOWN
    refuses: bool = False
    n_asked: int = 0

    def liveness(self) -> Mapping[KmeId, PeerLiveness]:
        return {PEER: self.state}

    def beat(self) -> None:
        now_s = self.clock.monotonic_s()
        self.state = PeerLiveness(now_s, now_s + LEASE_S, None, None)

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        assert peer == PEER
        self.n_asked += 1
        begun_s = self.clock.monotonic_s()
        await self.clock.sleep(0.1)
        if self.refuses:
            raise PeerUnavailableError("KME kme-2 accepted no heartbeat: try again later")
        self.state = PeerLiveness(begun_s, begun_s + LEASE_S, None, None)


@dataclass
class Host:
    """One elected worker after the other, and one that listens."""

    clock: VirtualClock
    speaker: LivenessSpeaker | None = None
    ends: list[Streams] = field(default_factory=list)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = LivenessListener(self.clock, LEASE_S)
        self.tasks.append(asyncio.create_task(self.listener.listen(self._connect)))

    def elect(self) -> Elected:
        elected = Elected(self.clock)
        self.speaker = LivenessSpeaker(elected, self.clock)
        self.tasks.append(asyncio.create_task(self.speaker._keep_speaking()))
        return elected

    def kill(self) -> None:
        self.speaker = None
        for _, writer in self.ends:
            writer.close()
        self.tasks.pop().cancel()

    def pause(self) -> None:
        self.tasks[-1].cancel()

    async def _connect(self) -> Streams:
        if self.speaker is None:
            raise ConnectionRefusedError
        ours, theirs = stream_pair()
        self.ends.append(theirs)
        task = asyncio.create_task(self.speaker.attend(*theirs))
        self.tasks.insert(0, task)
        return ours


def on_host(test: Callable[[Host], Awaitable[None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        host = Host(clock)
        try:
            await test(host)
        finally:
            for task in host.tasks:
                task.cancel()
            await asyncio.gather(*host.tasks, return_exceptions=True)

    run_virtual(main)


def is_alive(host: Host) -> bool:
    try:
        host.listener.require_alive(PEER)
    except PeerUnavailableError:
        return False
    return True


def test_without_an_elected_worker_nobody_is_alive() -> None:
    async def test(host: Host) -> None:
        await host.clock.sleep(1)
        with pytest.raises(PeerUnavailableError, match="no worker"):
            host.listener.require_alive(PEER)
        with pytest.raises(PeerUnavailableError, match="no worker"):
            await host.listener.heartbeat_from_now(PEER)
        with pytest.raises(PeerUnavailableError, match="no worker"):
            host.listener.require_heard_once(PEER)

    on_host(test)


def test_a_change_is_heard_within_a_quarter_of_a_second() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        await host.clock.sleep(2)
        assert not is_alive(host)
        elected.beat()
        await host.clock.sleep(0.26)
        assert is_alive(host)
        host.listener.require_heard_once(PEER)
        elected.state = replace(elected.state, not_alive="roll-back seen", unsound="roll-back seen")
        await host.clock.sleep(0.26)
        with pytest.raises(PeerUnavailableError, match="roll-back"):
            host.listener.require_alive(PEER)
        with pytest.raises(PeerUnavailableError, match="roll-back"):
            host.listener.require_heard_once(PEER)

    on_host(test)


def test_a_lease_ends_by_the_listeners_own_clock() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.beat()
        await host.clock.sleep(9.9)
        assert is_alive(host)
        await host.clock.sleep(0.2)
        assert not is_alive(host), "though the elected worker said nothing new"

    on_host(test)


def test_an_elected_worker_that_hangs_is_not_believed_for_long() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.beat()
        await host.clock.sleep(2)
        host.pause()
        await host.clock.sleep(3.1)
        assert not is_alive(host)

    on_host(test)


def test_an_elected_worker_that_dies_is_not_believed_at_all() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.beat()
        await host.clock.sleep(1)
        host.kill()
        await host.clock.sleep(0.01)
        assert not is_alive(host)
        host.listener.require_heard_once(PEER)

    on_host(test)


def test_a_death_is_told_at_once_because_the_next_elected_worker_closes_all_claims() -> None:
    async def test(host: Host) -> None:
        told: list[float] = []
        host.listener.on_silence = lambda: told.append(host.clock.monotonic_s())
        host.elect().beat()
        await host.clock.sleep(1)
        assert told == []
        died_s = host.clock.monotonic_s()
        host.kill()
        await host.clock.sleep(1)
        assert told == [died_s]

    on_host(test)


def test_the_next_elected_worker_is_heard() -> None:
    async def test(host: Host) -> None:
        host.elect().beat()
        await host.clock.sleep(1)
        host.kill()
        await host.clock.sleep(3)
        host.elect().beat()
        await host.clock.sleep(0.6)
        assert is_alive(host)

    on_host(test)


def test_a_roll_back_is_not_forgotten_with_the_worker_that_saw_it() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.beat()
        await host.clock.sleep(1)
        elected.state = replace(elected.state, not_alive="roll-back", unsound="roll-back")
        await host.clock.sleep(1)
        host.kill()
        host.elect()
        await host.clock.sleep(1)
        with pytest.raises(PeerUnavailableError, match="was not heard"):
            host.listener.require_heard_once(PEER)

    on_host(test)


def test_a_heartbeat_from_now_began_after_the_question() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.beat()
        await host.clock.sleep(1)
        asked_s = host.clock.monotonic_s()
        await asyncio.gather(*(host.listener.heartbeat_from_now(PEER) for _ in range(20)))
        assert elected.state.begun_s is not None
        assert elected.state.begun_s >= asked_s
        assert elected.n_asked == 20

    on_host(test)


def test_a_heartbeat_that_fails_is_told_at_once() -> None:
    async def test(host: Host) -> None:
        elected = host.elect()
        elected.refuses = True
        await host.clock.sleep(1)
        asked_s = host.clock.monotonic_s()
        with pytest.raises(PeerUnavailableError, match="accepted no heartbeat"):
            await host.listener.heartbeat_from_now(PEER)
        assert host.clock.monotonic_s() - asked_s < 0.5

    on_host(test)


def test_a_death_in_the_middle_of_a_question_is_told_at_once() -> None:
    async def test(host: Host) -> None:
        host.elect()
        await host.clock.sleep(1)
        question = asyncio.create_task(host.listener.heartbeat_from_now(PEER))
        await host.clock.sleep(0.05)
        host.kill()
        with pytest.raises(PeerUnavailableError, match="has changed"):
            await question

    on_host(test)


def test_a_peer_that_is_not_connected_is_never_alive() -> None:
    async def test(host: Host) -> None:
        host.elect().beat()
        await host.clock.sleep(1)
        with pytest.raises(PeerUnavailableError, match="make connect"):
            host.listener.require_alive(KmeId("kme-3"))

    on_host(test)


def test_a_worker_that_says_nonsense_is_hung_up_on() -> None:
    async def test(host: Host) -> None:
        host.elect().beat()
        await host.clock.sleep(1)
        _, writer = host.ends[0]
        writer.write(b"{nonsense\n")
        await host.clock.sleep(0.1)
        assert not is_alive(host)
        await host.clock.sleep(1)
        assert is_alive(host), "it connects again"

    on_host(test)
