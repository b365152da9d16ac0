"""SIGKILL of either KME between any two steps: no key twice, no disagreement, service back."""

import asyncio
import time
from pathlib import Path

from kme.ids import KmeId
from kme.pair import KME_IDS
from pair_on_host import PairOnHost, running_pair

LEADER, FOLLOWER = KME_IDS

WRITES = (
    "ingest", "open_proposal", "settle", "raise_peer_settled", "claim", "draw",
    "begin_heartbeat", "accept_heartbeat",
)  # fmt: skip
READS = {LEADER: ("inbox", "final_keys"), FOLLOWER: ("held", "final_keys")}


def _steps(victim: KmeId) -> list[tuple[str, str]]:
    """Return every call of the store at whose border a process could die: method and moment."""
    writes = [method for method in WRITES if victim == LEADER or method != "open_proposal"]
    return [
        *((method, "before") for method in READS[victim]),
        *((method, moment) for method in writes for moment in ("before", "after")),
    ]


async def _die_at(pair: PairOnHost, victim: KmeId, method: str, moment: str) -> None:
    """Start the victim so that it dies at a step, and make it come to that step."""
    pair.start(victim, dies_at=(method, moment))
    deadline_s = time.monotonic() + 20
    next_feed_s = 0.0
    while not pair.is_dead(victim):
        assert time.monotonic() < deadline_s, f"{victim} never came to {method}"
        if time.monotonic() > next_feed_s:
            pair.source.feed()
            next_feed_s = time.monotonic() + 1.5
        await pair.exchange()
        await asyncio.sleep(0.05)
    assert pair.exit_code(victim) == -9


async def _survive_all_steps(directory: Path, victim: KmeId) -> None:
    async with running_pair(directory) as pair:
        await pair.exchange_until_both_work()
        pair.kill(victim)
        for method, moment in _steps(victim):
            await _die_at(pair, victim, method, moment)
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
