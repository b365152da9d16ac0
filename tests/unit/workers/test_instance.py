"""Of one container's workers only one stands for election."""

import asyncio
from pathlib import Path

import pytest

from kme.errors import SettingsError
from kme.workers.instance import Instance
from simulation import VirtualClock, run_virtual


def test_only_one_is_in_there_and_the_next_one_has_the_same_name(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        names: list[str] = []

        async def wait_for_it() -> None:
            async with Instance(tmp_path, clock).only_one() as name:
                names.append(name)

        async with Instance(tmp_path, clock).only_one() as name:
            waiting = asyncio.create_task(wait_for_it())
            await clock.sleep(60)
            assert names == []
        await waiting
        assert names == [name]

    run_virtual(main)


def test_another_folder_is_another_instance(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        (tmp_path / "b").mkdir()
        here, there = Instance(tmp_path, clock), Instance(tmp_path / "b", clock)
        async with here.only_one() as a, there.only_one() as b:
            assert a != b

    run_virtual(main)


def test_who_waits_in_vain_leaves_nothing_locked(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        async with Instance(tmp_path, clock).only_one():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), Instance(tmp_path, clock).only_one():
                    pass
        async with asyncio.timeout(1), Instance(tmp_path, clock).only_one():
            pass

    run_virtual(main)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        with pytest.raises(SettingsError, match="gone/elected"):
            async with Instance(tmp_path / "gone", clock).only_one():
                pass

    run_virtual(main)
