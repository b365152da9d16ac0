"""waiting - until something is so, or an error after a while."""

import asyncio
import time
from collections.abc import Callable

_POLL_S = 0.05


async def until(is_so: Callable[[], bool], timeout_s: float) -> float:
    """Wait until something is so; return how long that took in seconds.

    What is asked may read files: it runs in a thread.

    Raises
    ------
    TimeoutError
        If it was not so in time.
    """
    begun_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while True:
            if await asyncio.to_thread(is_so):
                return time.monotonic() - begun_s
            await asyncio.sleep(_POLL_S)
