"""clock - time as an argument, so that a test can be a day long and take a millisecond."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What behaviour may know about time."""

    def now_s(self) -> float:
        """Return the universal time in seconds since 1970; it may jump."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never run back, from an arbitrary start."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait for so many seconds of monotonic time."""
        ...


async def pause(stop: asyncio.Event, duration_s: float) -> None:
    """Wait for so many seconds, but no longer than until `stop` is set."""
    try:
        async with asyncio.timeout(duration_s):
            await stop.wait()
    except TimeoutError:
        return


class SystemClock:
    """The time of the machine."""

    def now_s(self) -> float:
        """Return the universal time in seconds since 1970."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Wait in the running event loop."""
        await asyncio.sleep(duration_s)
