"""A bounded inbox: files stay while too many final keys wait, and others do not suffer."""

import asyncio
import os
from pathlib import Path

import pytest

from ingest_scene import FrozenClock, play, until
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.errors import InboxFullError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.ingest import Feed, Ingest
from kme.ingest.intake import Intake
from kme.ingest.room import COUNT_INTERVAL_S, InboxRoom
from kme.secret import Secret
from kme.store.memory import MemoryStore
from simulation import VirtualClock, run_virtual

A, B, C, LINK = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c"), SourceId("link")


def write(directory: Path, epoch: int) -> Path:
    return write_final_key(directory, FinalKeyFile(Epoch(epoch), 1, 320, Secret(os.urandom(40))))


def test_so_many_final_keys_come_in_and_more_once_some_are_gone() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(A)
        room = InboxRoom(store, clock, most=3)
        for epoch in range(3):
            await room.require(B, LINK, 1)
            await store.ingest(B, LINK, Epoch(epoch), [Secret(b"x")])
        with pytest.raises(InboxFullError, match=r"3 final keys of source link .* KME kme-b"):
            await room.require(B, LINK, 1)
        await room.require(C, LINK, 1)
        await store.burn_inbox(B)
        with pytest.raises(InboxFullError):
            await room.require(B, LINK, 1)
        await clock.sleep(COUNT_INTERVAL_S)
        await room.require(B, LINK, 3)

    run_virtual(main)


def test_a_full_inbox_leaves_its_files_alone_and_files_of_another_link_go_on(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        store = MemoryStore(A)
        ingest = Ingest(store, FrozenClock(Epoch(0xB0000002)), max_waiting=5)
        intake = Intake(ingest, 2, max_waiting=4)
        stop = asyncio.Event()
        running = asyncio.create_task(intake.run(stop))
        feeds = [Feed(peer, LINK, tmp_path / peer) for peer in (B, C)]
        for feed in feeds:
            feed.directory.mkdir()
        for epoch in range(20):
            write(feeds[0].directory, epoch)
            await intake.announce(feeds[0], Epoch(epoch))
        await until(lambda: ingest.counts.n_ingested == 5 and intake.is_idle)
        assert intake.take_full()
        assert not intake.take_full()
        assert len(list(feeds[0].directory.iterdir())) == 15
        write(feeds[1].directory, 7)
        await intake.announce(feeds[1], Epoch(7))
        await until(lambda: ingest.counts.n_ingested == 6)
        assert ingest.counts.n_duplicates == ingest.counts.n_bad == intake.counts.n_outages == 0
        stop.set()
        await running

    play(story)
