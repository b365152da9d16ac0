"""kme_processes - embedded KMEs as processes that start within a few hundredths of a second.

Importing takes most of a KME's start, so a server process that has imported
everything forks each of them. They are real processes all the same: with
files, sockets and a death of their own.
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final, cast

from cable import enter
from dying_kme import DyingStore
from kme.embedded import run_kme
from kme.ids import KmeId
from kme.pair import KmePlace
from kme.runtime import run
from kme.settings import load_settings
from kme.store.ports import Store

Failpoint = tuple[str, str]
"""A method of the store, and ``before`` or ``after``: there the process kills itself."""

_END_S: Final = 20.0


class KmeProcesses:
    """The processes of some KMEs, one of each at a time.

    Attributes
    ----------
    namespaces
        Which KMEs live in a network namespace, and its name.
    """

    def __init__(self) -> None:
        self.namespaces: dict[KmeId, str] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["kme.embedded", "pytest"])
        self._running: dict[KmeId, ForkServerProcess] = {}
        # Starting one process also looks after all others that ended.
        self._lock = threading.Lock()
        self.n_killed = 0
        self.n_died_at_failpoint = 0

    @contextlib.contextmanager
    def all_ended(self) -> Iterator["KmeProcesses"]:
        """Kill what still runs at the end."""
        try:
            yield self
        finally:
            for process in self._running.values():
                process.kill()
                process.join(_END_S)

    def start(self, place: KmePlace, dies_at: Failpoint | None = None) -> None:
        """Start a KME, perhaps so that it dies at a failpoint."""
        namespace = self.namespaces.get(place.id)
        process = self._context.Process(
            target=_live, args=(place.config, place.log, dies_at, namespace)
        )
        with self._lock:
            process.start()
        self._running[place.id] = process

    def is_dead(self, kme: KmeId) -> bool:
        """Whether its process has ended."""
        with self._lock:
            return not self._running[kme].is_alive()

    def kill(self, kme: KmeId) -> None:
        """Kill it, if it didn't die by itself, and wait for its end."""
        process = self._running[kme]
        with self._lock:
            if process.is_alive():
                process.kill()
                self.n_killed += 1
            else:
                self.n_died_at_failpoint += 1
            process.join(_END_S)
        assert process.exitcode == -9, f"{kme} ended with {process.exitcode}: see its log"

    def stop(self, kme: KmeId) -> int | None:
        """Ask it to stop and return its exit code."""
        process = self._running[kme]
        with self._lock:
            process.terminate()
            process.join(_END_S)
        return process.exitcode


def _live(config: Path, log: Path, dies_at: Failpoint | None, namespace: str | None) -> None:
    """Be a KME; end with the process that asked for it."""
    if namespace is not None:
        enter(namespace)
    with log.open("ab") as out:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(out.fileno(), stream.fileno())
    parent = multiprocessing.parent_process()
    assert parent is not None
    os.dup2(parent.sentinel, sys.stdin.fileno())

    def around(store: Store) -> Store:
        return store if dies_at is None else cast("Store", DyingStore(store, *dies_at))

    async def work(stop: asyncio.Event) -> None:
        await run_kme(load_settings(config), stop, stops_with_input=True, around_store=around)

    run(work)
