"""What tests of taking files in share: a moment that stands still, stories that end, patience."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from kme.ids import Epoch


@dataclass(frozen=True)
class FrozenClock:
    """It is always the same moment, shortly after an epoch began."""

    epoch: Epoch

    def now_s(self) -> float:
        return self.epoch.number * 2**29 / 1e9 + 0.1

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


def play(story: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a story in an event loop of its own; one that hangs is an error."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    while not condition():  # noqa: ASYNC110 - nobody tells when a counter rises
        await asyncio.sleep(0.002)
