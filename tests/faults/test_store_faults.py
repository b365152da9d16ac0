"""A disk that is full, a database that somebody else locks, a damaged one: told, and got over."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from kme.ids import SaeId
from kme.pair import KME_IDS, KmePlace
from kme.pki.identity import KME_PREFIX
from kme.pki.tls import client_context
from pair_on_host import ALICE, BOB, PairOnHost, running_pair
from waiting import until

HERE, THERE = KME_IDS
BACK_S = 60.0
"""On an idle host it takes a second or two."""

DISK_BYTES = 24 * 1024 * 1024


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder as long as the block lasts."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir(parents=True, mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write until there is no space left."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, bytes(size))
    finally:
        os.close(descriptor)


def place_of(pair: PairOnHost) -> KmePlace:
    return next(place for place in pair.pair.kmes if place.id == HERE)


def raw_client(pair: PairOnHost, sae: SaeId) -> httpx.AsyncClient:
    """Return a client that shows status and headers as they came."""
    pki, place = pair.pair.pki, pair.pair.home_of(sae)
    context = client_context(pki.sae_certificates[sae], pki.service_ca, KME_PREFIX + place.id)
    return httpx.AsyncClient(base_url=place.sae_url, verify=context, timeout=10, trust_env=False)


def is_told(answer: httpx.Response) -> bool:
    """Whether the answer is a 503 that says when to try again, and nothing about the inside."""
    if answer.status_code != 503:
        return False
    assert int(answer.headers["Retry-After"]) >= 1
    assert "store.db" not in answer.text
    return True


class TestFullDisk:
    async def _run(self, directory: Path) -> None:
        async with running_pair(directory) as pair:
            await pair.exchange_until_both_work(BACK_S)
            for _ in range(20):
                await pair.exchange(4)
            # What bob was given for alice is drawn at the KME whose disk is full.
            waiting = pair.handed[BOB, ALICE]
            waiting.take_new(await pair.clients[BOB].enc_keys(ALICE, 4))
            open_ids = waiting.open_ids
            filler = pair.pair.home_of(ALICE).folder / "filler"
            fill(filler)
            async with raw_client(pair, ALICE) as alice:
                enc = f"/api/v1/keys/{BOB}/enc_keys"
                dec = f"/api/v1/keys/{BOB}/dec_keys?key_ID={open_ids[0]}"
                await self._use_up(lambda: alice.get(enc), pair, filler)
                began_s = time.monotonic()
                while time.monotonic() - began_s < 3:
                    fill(filler)
                    assert is_told(await alice.get(enc))
                    assert is_told(await alice.get(dec))
                    await asyncio.sleep(0.1)
            assert not pair.is_dead(HERE)
            filler.unlink()
            await pair.exchange_until_both_work(BACK_S)
            assert not set(open_ids) & set(waiting.to_slave)
            waiting.take_drawn(await pair.clients[ALICE].dec_keys(BOB, open_ids))
            await pair.drain()
            pair.check_no_byte_was_given_twice()
            assert not any(handed.open_ids for handed in pair.handed.values()), "a key was lost"
            pair.source.feed()  # used-up blocks are gone, and nothing would be left to compare
            await pair.exchange_until_both_work()
            for kme in KME_IDS:
                assert pair.stop(kme) == 0
            assert await pair.check_blocks_are_equal() >= 1

    @staticmethod
    async def _use_up(
        ask: Callable[[], Awaitable[httpx.Response]], pair: PairOnHost, filler: Path
    ) -> None:
        """Use up what space the store's files still have within themselves."""
        async with asyncio.timeout(BACK_S):
            while not is_told(await ask()):
                fill(filler)

    def test_is_503_with_retry_after_and_recovery_by_itself(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "pair" / HERE):
            asyncio.run(self._run(tmp_path / "pair"))


async def made_and_stopped(pair: PairOnHost) -> KmePlace:
    """Let a pair work, then stop one KME and return its place."""
    await pair.exchange_until_both_work(BACK_S)
    for _ in range(10):
        await pair.exchange(4)
    assert pair.stop(HERE) == 0
    return place_of(pair)


async def refusal(pair: PairOnHost, place: KmePlace) -> str:
    """Start a KME that cannot start, and return what it said."""
    begin = place.log.stat().st_size
    pair.start(HERE)
    await until(lambda: pair.is_dead(HERE), BACK_S)
    assert pair.exit_code(HERE) == 1
    said = place.log.read_bytes()[begin:].decode()
    assert "Traceback" not in said
    assert str(place.folder / "store.db") in said
    return said


async def works_again(pair: PairOnHost) -> None:
    pair.start(HERE)
    await pair.exchange_until_both_work(BACK_S)
    await pair.drain()
    pair.check_no_byte_was_given_twice()


class TestRefusedStart:
    def test_a_database_that_another_program_locks(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with running_pair(tmp_path / "pair") as pair:
                place = await made_and_stopped(pair)
                with closing(sqlite3.connect(place.folder / "store.db")) as other:
                    other.execute("BEGIN EXCLUSIVE")
                    assert "locked" in await refusal(pair, place)
                await works_again(pair)

        asyncio.run(work())

    def test_a_database_that_another_kme_uses(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with running_pair(tmp_path / "pair") as pair:
                await pair.exchange_until_both_work(BACK_S)
                place = place_of(pair)
                command = [sys.executable, "-m", "kme", "run", "--config", str(place.config)]
                second = await asyncio.to_thread(
                    subprocess.run, command, capture_output=True, check=False, timeout=60
                )
                assert second.returncode == 1
                assert b"uses this store: stop it first" in second.stderr
                await pair.exchange_until_both_work(BACK_S)

        asyncio.run(work())

    @pytest.mark.parametrize(
        "damage",
        [b"", b"\0" * 100, b"no database at all" * 300],
        ids=["half of it", "no header", "another content"],
    )
    def test_a_file_that_is_no_database(self, tmp_path: Path, damage: bytes) -> None:
        async def work() -> None:
            async with running_pair(tmp_path / "pair") as pair:
                place = await made_and_stopped(pair)
                file = place.folder / "store.db"
                good = file.read_bytes()
                bad = damage + good[len(damage) :] if damage else good[: len(good) // 2]
                file.write_bytes(bad)
                assert "cannot be opened" in await refusal(pair, place)
                assert file.read_bytes() == bad, "evidence was changed"
                file.write_bytes(good)
                await works_again(pair)

        asyncio.run(work())


class TestDamagedPages:
    def test_keys_of_a_damaged_store_are_refused_and_never_wrong(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with running_pair(tmp_path / "pair") as pair:
                place = await made_and_stopped(pair)
                file = place.folder / "store.db"
                good = file.read_bytes()
                bad = bytearray(good)
                for at in range(4096, len(good), 4096):
                    bad[at + 1000 : at + 3000] = os.urandom(2000)
                file.write_bytes(bad)
                begin = place.log.stat().st_size
                pair.start(HERE)
                said = ""
                async with asyncio.timeout(BACK_S):
                    while "malformed" not in said:
                        # Whatever is handed over is compared; a refusal is all right.
                        await pair.exchange()
                        await asyncio.sleep(0.1)
                        said = place.log.read_bytes()[begin:].decode()
                assert "Traceback" not in said
                pair.check_no_byte_was_given_twice()

        asyncio.run(work())
