"""Cost per key, start and memory of a KME's store and supply, with few and many blocks in stock.

::

    make bench-flat ARGS="--blocks 1000,1000000"
    make bench-flat ARGS="--blocks 1000,100000 --store vault"

Store and supply are the real ones; there is no HTTP and no TLS towards SAEs, so that growth would
show. Half of the blocks are this KME's own, half are the peer's. Vault is a real one whose files
lie in memory: disks cost the same per write, however much there is.
"""

import argparse
import asyncio
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from kme.clock import SystemClock
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
from kme.store.ports import Store
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from kme.store.sqlite import SqliteStore
from kme.store.vault import VaultStore
from kme.supply.cache import OpenBlock
from kme.supply.directory import SaeDirectory
from kme.supply.key_id import IdScope, make_key_id
from kme.supply.supply import LinkSupply
from kme.vault.client import VaultAccess
from kme.vault.documents import Documents
from memory_documents import MemoryDocuments
from real_vault import RealVault, open_session
from supply_pair import SimulatedLiveness

HERE, THERE = KmeId("kme-a"), KmeId("kme-b")
ALICE, BOB = SaeId("alice"), SaeId("bob")
SOURCE = SourceId("bench")
BLOCK_BYTES = 1024
KEY_BYTES = 32
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: in a file, or in Vault.

    Parameters
    ----------
    path
        The file of a SQLite store.
    access
        The Vault; None for SQLite.
    mount
        Its KV mount.
    """

    path: Path
    access: VaultAccess | None = None
    mount: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """Open the store."""
        if self.access is None:
            embedded = await SqliteStore.open(HERE, self.path, Secret(bytes(32)))
            yield embedded
            await embedded.close()
            return
        async with open_session(self.access) as session:
            store = await VaultStore.open(HERE, Documents(session, self.mount), Secret(bytes(32)))
            yield store
            await store.close()

    @property
    def size_mb(self) -> float:
        """How large its file is."""
        return self.path.stat().st_size / 1e6


def fill(place: Place, n_blocks: int) -> None:
    """Put blocks into a store."""
    asyncio.run(_fill(place, n_blocks))


async def _fill(place: Place, n_blocks: int) -> None:
    if place.access is None:
        async with place.open() as store:
            await _settle_all(store, n_blocks)
        return
    # One after the other each block would take Vault some 10 ms: all at once they take 2.
    documents = MemoryDocuments()
    store = await VaultStore.open(HERE, documents, Secret(bytes(32)))
    await _settle_all(store, n_blocks)
    async with open_session(place.access) as session:
        target, paths = Documents(session, place.mount), iter(documents.paths())

        async def copy() -> None:
            for path in paths:
                found = await documents.read(path)
                assert found is not None
                await target.write(path, found.data, 0)

        await asyncio.gather(*(copy() for _ in range(8)))


async def _settle_all(store: Store, n_blocks: int) -> None:
    rng = random.Random(n_blocks)  # noqa: S311 - nobody uses these keys
    for begin in range(1, n_blocks + 1, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, n_blocks + 1))
        if isinstance(store, SqliteStore):  # those share a commit, in their order
            await asyncio.gather(*(_settle(store, number, rng) for number in numbers))
        else:
            for number in numbers:
                await _settle(store, number, rng)
        await store.raise_peer_settled(THERE, numbers[-1])


async def _settle(store: Store, number: int, rng: random.Random) -> None:
    owner = HERE if number % 2 else THERE
    entry = FinalKeyRef(SOURCE, Epoch(number))
    proposal = Proposal(number, owner, (entry,), 86_400, SourceClass.QKD, bytes(16))
    key = Secret(rng.randbytes(BLOCK_BYTES))
    await store.settle(THERE, Settlement(proposal, Verdict.EQUAL), key)


def measure(place: Place, n_blocks: int, n_keys: int) -> None:
    """Measure one store and print its row of the table."""
    row = asyncio.run(_measure(place, n_blocks, n_keys))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{row} {peak_mb:.0f} | {place.size_mb:.0f} |", flush=True)


async def _measure(place: Place, n_blocks: int, n_keys: int) -> str:
    begun_s = time.perf_counter()
    async with place.open() as store:
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
    return f"| {n_blocks} | {enc_us:.0f} | {dec_us:.0f} | {stock_us:.0f} | {started_s:.2f} |"


async def _ids(store: Store, n_blocks: int, n_keys: int) -> list[KeyId]:
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


def _rows(place: Place, n_blocks: int, n_keys: int) -> None:
    """Fill and measure in a process of its own each: memory is the measuring one's alone."""
    context = multiprocessing.get_context("spawn")
    for act, more in ((fill, ()), (measure, (n_keys,))):
        process = context.Process(target=act, args=(place, n_blocks, *more))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{act.__name__} failed")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", default="1000,100000", help="how many blocks, by commas")
    parser.add_argument("--keys", type=int, default=3000, help="how many keys are measured")
    parser.add_argument("--store", choices=("sqlite", "vault"), default="sqlite")
    arguments = parser.parse_args()
    print("| blocks | enc us | dec us | stock us | start s | peak MB | file MB |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    with ExitStack() as stack:
        vault: RealVault | None = None
        if arguments.store == "vault":
            memory = tempfile.TemporaryDirectory(prefix="kme-flat-", dir="/dev/shm")
            vault = stack.enter_context(RealVault(Path(stack.enter_context(memory))).running())
        for n_blocks in map(int, arguments.blocks.split(",")):
            with tempfile.TemporaryDirectory(prefix="kme-flat-") as folder:
                place = Place(Path(folder) / "store.db")
                if vault is not None:
                    files = vault.folder / "data/vault.db"
                    place = Place(files, vault.access(timeout_s=30.0), vault.fresh_mount())
                _rows(place, n_blocks, arguments.keys)


if __name__ == "__main__":
    main()
