"""kme.runtime: one event loop, signals that ask it to stop, errors in one line."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from kme.errors import SettingsError
from kme.runtime import first_error, run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_the_work_to_stop(number: signal.Signals) -> None:
    async def work(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)

    run(work)


def test_kmes_own_error_comes_out_of_the_groups_around_it() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def work(stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail(OSError("other")))
            tasks.create_task(fail(SettingsError("port in use")))

    with pytest.raises(SettingsError, match="port in use"):
        run(work)


def test_without_an_error_of_kmes_own_the_first_one_counts() -> None:
    inner = ExceptionGroup("inner", [OSError("one"), ValueError("two")])
    assert str(first_error(ExceptionGroup("outer", [inner]))) == "one"


def test_work_stops_when_its_input_ends() -> None:
    program = (
        "import asyncio\n"
        "from kme.runtime import run, stop_when_input_ends\n"
        "async def work(stop):\n"
        "    stop_when_input_ends(stop)\n"
        "    print('started', flush=True)\n"
        "    await asyncio.wait_for(stop.wait(), 30)\n"
        "run(work)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"started\n"
        child.stdin.write(b"words are ignored")
        child.stdin.flush()
        child.stdin.close()
        assert child.wait(timeout=20) == 0
