"""SIGKILL of either KME between any two steps: no key twice, no disagreement, service back."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from kme.errors import KmeError
from kme.ids import KmeId, SaeId
from kme.pair import KME_IDS
from pair_on_host import ALICE, BOB, EVE, PairOnHost, running_pair

LEADER, FOLLOWER = KME_IDS

WRITES = (
    "ingest", "open_proposal", "settle", "raise_peer_settled", "claim", "draw",
    "begin_heartbeat", "accept_heartbeat",
)  # fmt: skip
GRANTS = (
    ("grants", "before"),
    *((method, when) for method in ("keep_grants", "take_grants") for when in ("before", "after")),
)
READS = {LEADER: ("inbox", "final_keys"), FOLLOWER: ("held", "final_keys")}


def _steps(victim: KmeId) -> list[tuple[str, str]]:
    """Return every call of the store at whose border a process could die: method and moment."""
    writes = [method for method in WRITES if victim == LEADER or method != "open_proposal"]
    return [
        *((method, "before") for method in READS[victim]),
        *((method, moment) for method in writes for moment in ("before", "after")),
    ]


async def _die_at(
    pair: PairOnHost,
    victim: KmeId,
    step: tuple[str, str],
    exchange: Callable[[], Awaitable[object]],
) -> None:
    """Start the victim so that it dies at a step, and make it come to that step."""
    method, _ = step
    pair.start(victim, dies_at=step)
    deadline_s = time.monotonic() + 20
    next_feed_s = 0.0
    while not pair.is_dead(victim):
        assert time.monotonic() < deadline_s, f"{victim} never came to {method}"
        if time.monotonic() > next_feed_s:
            pair.source.feed()
            next_feed_s = time.monotonic() + 1.5
        await exchange()
        await asyncio.sleep(0.05)
    assert pair.exit_code(victim) == -9


async def _survive_all_steps(directory: Path, victim: KmeId) -> None:
    async with running_pair(directory) as pair:
        await pair.exchange_until_both_work()
        pair.kill(victim)
        for step in _steps(victim):
            await _die_at(pair, victim, step, pair.exchange)
        pair.start(victim)
        await pair.exchange_until_both_work()
        await pair.drain()
        pair.check_no_byte_was_given_twice()
        # Used-up blocks are gone at both ends: what is left to compare must be fresh.
        pair.source.feed()
        await pair.exchange_until_both_work()
        for kme in KME_IDS:
            assert pair.stop(kme) == 0
        assert await pair.check_blocks_are_equal() >= 1


class _Shared:
    """Keys that Alice shares with two SAEs of the other KME, and what these were handed."""

    def __init__(self, pair: PairOnHost) -> None:
        self._clients, self._source = pair.clients, pair.source
        self.keys: dict[str, bytes] = {}
        self.drawn: dict[SaeId, set[str]] = {BOB: set(), EVE: set()}

    async def exchange(self) -> None:
        """Try to share one key, and to draw whatever is open."""
        with contextlib.suppress(KmeError):
            for key in await self._clients[ALICE].enc_keys(BOB, 1, more_slaves=[EVE]):
                assert key.key_id not in self.keys, "a key_ID came twice"
                self.keys[key.key_id] = key.key.reveal()
        for slave, drawn in self.drawn.items():
            for key_id in [*self.keys][-4:]:  # some again, which must be in vain
                with contextlib.suppress(KmeError):
                    [key] = await self._clients[slave].dec_keys(ALICE, [key_id])
                    assert key_id not in drawn, "a key was delivered twice"
                    assert key.key.reveal() == self.keys[key_id], "the ends differ"
                    drawn.add(key_id)

    async def exchange_until_all_get_one(self) -> None:
        """Share keys until both get a fresh one."""
        before = {*self.keys}
        async with asyncio.timeout(20):
            while not set.intersection(*self.drawn.values()) - before:
                self._source.feed()
                await self.exchange()
                await asyncio.sleep(0.2)


async def _survive_granting(directory: Path) -> None:
    async with running_pair(directory) as pair:
        await pair.exchange_until_both_work()
        shared = _Shared(pair)
        await shared.exchange_until_all_get_one()
        pair.kill(FOLLOWER)
        for step in GRANTS:
            await _die_at(pair, FOLLOWER, step, shared.exchange)
        pair.start(FOLLOWER)
        await shared.exchange_until_all_get_one()
        assert len(set(shared.keys.values())) == len(shared.keys), "bytes were given out twice"


class TestLeader:
    """The leader dies."""

    def test_sigkill_at_any_step_gives_no_key_twice_and_no_disagreement(
        self, tmp_path: Path
    ) -> None:
        asyncio.run(_survive_all_steps(tmp_path / "pair", LEADER))


class TestFollower:
    """The follower dies."""

    def test_sigkill_at_any_step_gives_no_key_twice_and_no_disagreement(
        self, tmp_path: Path
    ) -> None:
        asyncio.run(_survive_all_steps(tmp_path / "pair", FOLLOWER))

    def test_sigkill_at_any_step_of_a_grant_gives_it_to_each_slave_at_most_once(
        self, tmp_path: Path
    ) -> None:
        asyncio.run(_survive_granting(tmp_path / "pair"))
