"""Two real KMEs as processes on this host, their SAEs as clients, and all keys that they got."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kme.epochs.random_source import RandomSource
from kme.errors import KmeError, OutOfKeysError
from kme.etsi014.client import DeliveredKey, Sae014Client, open_client
from kme.ids import KmeId, SaeId, SourceId
from kme.pair import DEFAULT_SAES, KME_IDS, Pair, PairPlan, free_ports, lay_out
from kme.store.records import SourceClass
from kme.store.sqlite import SqliteStore
from kme.store.sqlite.masterkey import read_master_key

ALICE: Final = SaeId("alice")
BOB: Final = SaeId("bob")
EVE: Final = SaeId("eve")
BOTH_WAYS: Final = ((ALICE, BOB), (BOB, ALICE))

QUICK: Final[Mapping[str, Mapping[str, object]]] = {
    "log": {"level": "DEBUG"},
    "pairing": {"heartbeat_interval_s": 0.2, "lease_s": 2.0, "gather_s": 0.1},
    "ingest": {"poll_interval_s": 0.05},
}
"""Settings under which a test need not wait long."""

_DYING_KME: Final = Path(__file__).with_name("dying_kme.py")


@dataclass
class Handed:
    """What SAEs were handed, in one direction."""

    to_master: dict[str, bytes] = field(default_factory=dict)
    to_slave: dict[str, bytes] = field(default_factory=dict)

    def take_new(self, keys: Sequence[DeliveredKey]) -> None:
        """Note what the master got; an id must be new."""
        for key in keys:
            assert key.key_id not in self.to_master, "a key_ID came twice"
            self.to_master[key.key_id] = key.key.reveal()

    def take_drawn(self, keys: Sequence[DeliveredKey]) -> None:
        """Note what the slave got: the same bytes, and no id twice."""
        for key in keys:
            assert key.key_id not in self.to_slave, "a key was delivered twice"
            self.to_slave[key.key_id] = key.key.reveal()
            assert self.to_slave[key.key_id] == self.to_master[key.key_id], "the ends differ"

    @property
    def open_ids(self) -> list[str]:
        """Ids that the slave has not got."""
        return [key_id for key_id in self.to_master if key_id not in self.to_slave]


class PairOnHost:
    """A pair that runs, with processes that may die.

    Parameters
    ----------
    directory
        Its folder.
    settings
        Settings of both KMEs, by section.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Mapping[str, object]] = QUICK
    ) -> None:
        plan = PairPlan(
            directory, free_ports(4), DEFAULT_SAES, SourceId("random"), SourceClass.RANDOM, settings
        )
        self.pair: Pair = lay_out(plan)
        one, other = (place.epochs for place in self.pair.kmes)
        self.source = RandomSource((one, other), directory / "last-epoch")
        self.handed = {way: Handed() for way in BOTH_WAYS}
        self.clients: dict[SaeId, Sae014Client] = {}
        self._processes: dict[KmeId, subprocess.Popen[bytes]] = {}

    def start(self, kme: KmeId, dies_at: tuple[str, str] | None = None) -> None:
        """Start a KME; `dies_at` names a call of its store, and ``before`` or ``after``."""
        [place] = [place for place in self.pair.kmes if place.id == kme]
        command = [sys.executable]
        if dies_at is None:
            command += ["-m", "kme", "run", "--config", str(place.config), "--stop-with-input"]
        else:
            command += [str(_DYING_KME), str(place.config), *dies_at]
        self._let_go(kme)
        with place.log.open("ab") as log:
            self._processes[kme] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def pid(self, kme: KmeId) -> int:
        """Return the number of a KME's process."""
        return self._processes[kme].pid

    def is_dead(self, kme: KmeId) -> bool:
        """Whether a KME's process has ended."""
        return self._processes[kme].poll() is not None

    def exit_code(self, kme: KmeId) -> int | None:
        """Return how its process ended."""
        return self._processes[kme].poll()

    def kill(self, kme: KmeId) -> None:
        """Kill a KME's process and wait for its end."""
        self._processes[kme].kill()
        self._processes[kme].wait(timeout=20)

    def stop(self, kme: KmeId) -> int:
        """Ask a KME to stop and return its exit code."""
        process = self._processes[kme]
        process.terminate()
        return process.wait(timeout=20)

    def stop_all(self) -> None:
        """Stop what runs, whatever state it is in."""
        for process in self._processes.values():
            process.terminate()
        for kme in list(self._processes):
            self._let_go(kme)

    def _let_go(self, kme: KmeId) -> None:
        """Wait for the end of a process that was told to end, and close its input."""
        process = self._processes.pop(kme, None)
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def exchange(self, n_keys: int = 1) -> int:
        """Try one hand-over in each direction; return in how many a key went through."""
        n_done = 0
        for (master, slave), handed in self.handed.items():
            with contextlib.suppress(KmeError):
                handed.take_new(await self.clients[master].enc_keys(slave, n_keys))
                key_ids = handed.open_ids[-n_keys:]
                handed.take_drawn(await self.clients[slave].dec_keys(master, key_ids))
                n_done += 1
        return n_done

    async def exchange_until_both_work(self, timeout_s: float = 20.0) -> None:
        """Try hand-overs until both directions work, feeding new key now and then."""
        started_s = time.monotonic()
        n_fed = 0
        while await self.exchange() < len(BOTH_WAYS):
            lasted_s = time.monotonic() - started_s
            assert lasted_s < timeout_s, "the pair did not come back"
            if lasted_s > n_fed:
                # A block has one owner: both need one before both directions work.
                self.source.feed()
                n_fed += 1
            await asyncio.sleep(0.1)

    async def drain(self) -> None:
        """Draw all ids that are open, one by one; then hand over all that is in stock."""
        for (master, slave), handed in self.handed.items():
            for key_id in handed.open_ids:
                with contextlib.suppress(KmeError):
                    handed.take_drawn(await self.clients[slave].dec_keys(master, [key_id]))
            while True:
                try:
                    keys = await self.clients[master].enc_keys(slave, 100, size_bits=1024)
                except OutOfKeysError:
                    break
                handed.take_new(keys)
                ids = [key.key_id for key in keys]
                handed.take_drawn(await self.clients[slave].dec_keys(master, ids))

    def check_no_byte_was_given_twice(self) -> None:
        """Hold that no granule of 8 bytes is in two keys (the bits are random)."""
        granules = [
            key[begin : begin + 8]
            for handed in self.handed.values()
            for key in handed.to_master.values()
            for begin in range(0, len(key), 8)
        ]
        assert len(granules) > 100
        assert len(set(granules)) == len(granules), "bytes were given out twice"

    async def check_blocks_are_equal(self) -> int:
        """Hold that both stores have the same blocks; return how many. Both KMEs are stopped.

        A block is missing only where it is used up: at its owner no later than at the other KME.
        """
        stores = [
            await SqliteStore.open(
                place.id, place.folder / "store.db", read_master_key(place.folder / "master.key")
            )
            for place in self.pair.kmes
        ]
        peers = KME_IDS[::-1]
        n_blocks = 0
        try:
            records = [await store.pairing(peer) for store, peer in zip(stores, peers, strict=True)]
            # Stopped between verdict and settlement, the follower is one block ahead.
            settled = [record.last.proposal.number for record in records if record.last]
            assert settled[1] - settled[0] in {0, 1}
            assert settled[0] == settled[1] or records[0].open_proposal is not None
            frontiers = [
                await store.frontier(peer) for store, peer in zip(stores, peers, strict=True)
            ]
            for number in range(1, settled[0] + 1):
                one, other = [
                    await store.block(peer, number)
                    for store, peer in zip(stores, peers, strict=True)
                ]
                if one is not None and other is not None:
                    assert one == other, f"block {number} differs"
                kept = one or other
                if kept is not None:
                    at_owner = KME_IDS.index(kept.owner)
                    is_used_up = frontiers[at_owner].is_behind(number, kept.n_granules)
                    assert ((one, other)[at_owner] is None) == is_used_up, f"block {number}"
                    assert (one, other)[at_owner ^ 1] is not None, f"block {number} is lost"
                    n_blocks += 1
            assert not [i for store in stores for i in await store.incidents(10)]
        finally:
            for store in stores:
                await store.close()
        return n_blocks


@asynccontextmanager
async def running_pair(
    directory: Path, settings: Mapping[str, Mapping[str, object]] = QUICK
) -> AsyncIterator[PairOnHost]:
    """Lay a pair out, start both KMEs, connect its SAEs; end all of it afterwards."""
    pair = PairOnHost(directory, settings)
    try:
        for kme in KME_IDS:
            pair.start(kme)
        async with contextlib.AsyncExitStack() as stack:
            for sae, home in pair.pair.saes.items():
                place = pair.pair.home_of(sae)
                pair.clients[sae] = await stack.enter_async_context(
                    open_client(
                        place.sae_url,
                        pair.pair.pki.sae_certificates[sae],
                        pair.pair.pki.service_ca,
                        home,
                    )
                )
            yield pair
    finally:
        pair.stop_all()
