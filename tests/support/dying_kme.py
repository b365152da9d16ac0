"""A KME that kills itself with SIGKILL at a chosen call of its store; otherwise a real one.

``python dying_kme.py CONFIG METHOD before|after`` dies at the first such call
of the method after the first heartbeat was accepted, so that the pair is up.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from kme.embedded import run_kme
from kme.runtime import run
from kme.settings import load_settings
from kme.store.ports import Store


class DyingStore:
    """A store around which its process dies.

    Parameters
    ----------
    store
        The real store.
    method
        Name of the method at whose call the process dies.
    moment
        ``before`` the call, or ``after`` it was done.
    """

    def __init__(self, store: Store, method: str, moment: str) -> None:
        self._store = store
        self._method = method
        self._moment = moment
        self._is_armed = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            is_last = self._is_armed and name == self._method
            if is_last and self._moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = await method(*arguments, **named)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            self._is_armed |= name == "begin_heartbeat" and arguments[-1] is not None
            return result

        return call


def main() -> None:
    """Run the KME until its death."""
    config, method, moment = sys.argv[1:]

    async def work(stop: asyncio.Event) -> None:
        await run_kme(
            load_settings(Path(config)),
            stop,
            stops_with_input=True,
            around_store=lambda store: cast("Store", DyingStore(store, method, moment)),
        )

    run(work)


if __name__ == "__main__":
    main()
