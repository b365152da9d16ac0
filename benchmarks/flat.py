"""Cost per key, start and memory of an embedded KME, with few and with many blocks in stock.

::

    make bench-flat BLOCKS=1000,100000

Store and supply are the real ones, in this process; there is no HTTP and no TLS, so that growth
would show. Half of the blocks are this KME's own, half are the peer's.
"""

import argparse
import asyncio
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from kme.clock import SystemClock
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from kme.store.sqlite import SqliteStore
from kme.supply.cache import OpenBlock
from kme.supply.directory import SaeDirectory
from kme.supply.key_id import IdScope, make_key_id
from kme.supply.supply import LinkSupply
from supply_pair import SimulatedLiveness

HERE, THERE = KmeId("kme-a"), KmeId("kme-b")
ALICE, BOB = SaeId("alice"), SaeId("bob")
SOURCE = SourceId("bench")
BLOCK_BYTES = 1024
KEY_BYTES = 32
AT_ONCE = 256


async def fill(path: Path, n_blocks: int) -> None:
    """Put blocks into a store."""
    store = await SqliteStore.open(HERE, path, Secret(bytes(32)))
    rng = random.Random(n_blocks)  # noqa: S311 - nobody uses these keys
    for begin in range(1, n_blocks + 1, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, n_blocks + 1))
        await asyncio.gather(*(_settle(store, number, rng) for number in numbers))
    await store.raise_peer_settled(THERE, n_blocks)
    await store.close()


async def _settle(store: SqliteStore, number: int, rng: random.Random) -> None:
    owner = HERE if number % 2 else THERE
    entry = FinalKeyRef(SOURCE, Epoch(number))
    proposal = Proposal(number, owner, (entry,), 86_400, SourceClass.QKD, bytes(16))
    key = Secret(rng.randbytes(BLOCK_BYTES))
    await store.settle(THERE, Settlement(proposal, Verdict.EQUAL), key)


async def measure(path: Path, n_blocks: int, n_keys: int) -> str:
    """Measure one store and return the beginning of a row of the table."""
    begun_s = time.perf_counter()
    store = await SqliteStore.open(HERE, path, Secret(bytes(32)))
    directory = SaeDirectory(HERE, (THERE,), ((ALICE, HERE), (BOB, THERE)))
    supply = LinkSupply(directory, store, SimulatedLiveness(), SystemClock(), "bench")
    await supply.open()
    (await supply.stock(ALICE, BOB)).count_of(KEY_BYTES)
    started_s = time.perf_counter() - begun_s
    await supply.new_keys(ALICE, BOB, 1, KEY_BYTES)
    enc_us = await _time_each(n_keys, lambda _: supply.new_keys(ALICE, BOB, 1, KEY_BYTES))
    ids = await _ids(store, n_blocks, n_keys + 1)
    await supply.keys_by_id(BOB, ALICE, [ids.pop()])
    dec_us = await _time_each(n_keys, lambda n: supply.keys_by_id(BOB, ALICE, [ids[n]]))
    stock_us = await _time_each(100, lambda _: supply.stock(ALICE, BOB))
    await supply.close()
    await store.close()
    return f"| {n_blocks} | {enc_us:.0f} | {dec_us:.0f} | {stock_us:.0f} | {started_s:.2f} |"


async def _ids(store: SqliteStore, n_blocks: int, n_keys: int) -> list[KeyId]:
    """Return ids that the peer would have given out, from its oldest blocks on."""
    scope = IdScope.on_link((BOB, THERE), (ALICE, HERE)).encoded()
    ids: list[KeyId] = []
    for number in range(2, n_blocks + 1, 2):
        block = await store.block(THERE, number)
        assert block is not None
        id_key = OpenBlock.of(block).id_key
        places = range(8, BLOCK_BYTES // 8 - 3, 4)
        ids += [make_key_id(id_key, scope, number, place, KEY_BYTES) for place in places]
        if len(ids) >= n_keys:
            break
    return ids[:n_keys]


async def _time_each(n_calls: int, act: Callable[[int], Awaitable[object]]) -> float:
    """Return the median time of a call, in microseconds."""
    took: list[float] = []
    for n in range(n_calls):
        begun_s = time.perf_counter()
        await act(n)
        took.append(time.perf_counter() - begun_s)
    return 1e6 * statistics.median(took)


def main() -> None:
    """Print the table; each row is measured in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", default="1000,100000", help="how many blocks, by commas")
    parser.add_argument("--keys", type=int, default=3000, help="how many keys are measured")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        row = asyncio.run(measure(arguments.one, int(arguments.blocks), arguments.keys))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{row} {peak_mb:.0f} | {arguments.one.stat().st_size / 1e6:.0f} |", flush=True)
        return
    print("| blocks | enc us | dec us | stock us | start s | peak MB | file MB |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for n_blocks in map(int, arguments.blocks.split(",")):
        with tempfile.TemporaryDirectory(prefix="kme-flat-") as folder:
            path = Path(folder) / "store.db"
            asyncio.run(fill(path, n_blocks))
            command = [sys.executable, __file__, "--one", str(path), "--blocks", str(n_blocks)]
            subprocess.run([*command, "--keys", str(arguments.keys)], check=True, env=os.environ)


if __name__ == "__main__":
    main()
