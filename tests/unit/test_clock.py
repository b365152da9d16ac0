"""kme.clock: the machine's time."""

import asyncio
import time

from kme.clock import SystemClock


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    assert abs(clock.now_s() - time.time()) < 5
    before_s = clock.monotonic_s()
    asyncio.run(clock.sleep(0.01))
    assert clock.monotonic_s() - before_s >= 0.009
