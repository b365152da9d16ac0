"""A process that does everything to a store at once and says what was acknowledged, till killed.

usage: storm.py STORE ROUND
"""

import asyncio
import itertools
import os
import random
import sys
from pathlib import Path

from kme.errors import KeyNotFoundError
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store.records import (
    FinalKeyRef,
    GranuleRange,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from kme.store.sqlite import SqliteStore

A, B, LINK = KmeId("kme-a"), KmeId("kme-b"), SourceId("link")
MASTER = Secret(bytes(range(32)))
BLOCK_BYTES = 4096


def block_key(number: int) -> Secret:
    """Return the bytes of the block of this number, the same in every process."""
    return Secret(random.Random(number).randbytes(BLOCK_BYTES))


def say(*words: object) -> None:
    """Tell the parent what was acknowledged, at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def make_blocks(store: SqliteStore, first: int) -> None:
    for number in itertools.count(first):
        assert await store.ingest(B, LINK, Epoch(number), [block_key(number)])
        say("ingest", number)
        entries = (FinalKeyRef(LINK, Epoch(number)),)
        # Claims go to our own blocks, draws to the peer's.
        owner = A if number % 2 else B
        proposal = Proposal(number, owner, entries, 3600, SourceClass.QKD, bytes(16))
        await store.open_proposal(B, proposal)
        await store.settle(B, Settlement(proposal, Verdict.EQUAL), block_key(number))
        say("settle", number)
        await store.raise_peer_settled(B, number)


async def claim(store: SqliteStore, worker: str, rng: random.Random) -> None:
    while True:
        got = await store.claim(B, worker, 1, rng.randint(1, 3))
        if got is not None:
            say("claim", got.reserved.block_number, got.reserved.start, got.reserved.stop)
            if rng.random() < 0.1:
                await store.give_back(B, got, got.reserved.stop)


async def draw(store: SqliteStore, rng: random.Random) -> None:
    while True:
        number = rng.randint(1, max(1, (await store.pairing(B)).highest))
        start = rng.randrange(8, BLOCK_BYTES // 8)
        try:
            await store.draw(B, [GranuleRange(number, start, start + 1)])
        except KeyNotFoundError:
            continue
        say("draw", number, start, start + 1)


async def main() -> None:
    store = await SqliteStore.open(A, Path(sys.argv[1]), MASTER)
    rng = random.Random(sys.argv[2])
    await store.close_claims()
    # What was ingested and not settled when the last process died stays where it is.
    entries = await store.inbox(B, LINK, None, 1000)
    highest = max([(await store.pairing(B)).highest, *(e.ref.epoch.number for e in entries)])
    record = await store.pairing(B)
    if record.open_proposal is not None:
        await store.settle(B, Settlement(record.open_proposal, Verdict.VOID), None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(make_blocks(store, highest + 1))
        for n in range(4):
            tasks.create_task(claim(store, f"w{n}", random.Random(rng.random())))
            tasks.create_task(draw(store, random.Random(rng.random())))


if __name__ == "__main__":
    asyncio.run(main())
