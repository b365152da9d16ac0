"""worker - gunicorn's process in, its event loop with one worker of the rest service out.

gunicorn binds the port, starts the workers, watches and replaces them; TLS,
HTTP and all bounds are `kme.server`'s, in each worker. gunicorn's own TLS
stays off: it reads the key in the parent, cannot take an issuing authority as
its only anchor, and hides the client's certificate.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Any, ClassVar, Final

from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from kme.appliance.rest.service import run_worker
from kme.appliance.rest.settings import RestSettings
from kme.appliance.start import load
from kme.clock import pause
from kme.errors import KmeError
from kme.runtime import first_error, share_interpreter, stop_on_signals

_logger = logging.getLogger(__name__)

_BEAT_S: Final = 1.0
_AFTER_FAULT_S: Final = 3.0


async def application(listening: socket.socket, stop: asyncio.Event) -> None:
    """Run one worker as its environment says; what gunicorn loads and `RestWorker` awaits."""
    await run_worker(load(RestSettings), listening, stop)


class RestWorker(UvicornWorker):  # type: ignore[misc]
    """One process of the service."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": "uvloop", "http": "httptools"}

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).propagate = True

    async def _serve(self) -> None:
        share_interpreter()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, stop.set)
        with stop_on_signals(stop):
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(self._keep_beating(stop))
                try:
                    await self._serve_until(stop)
                finally:
                    beating.cancel()

    async def _serve_until(self, stop: asyncio.Event) -> None:
        """Run the application; after a fault end this process, but not at once.

        gunicorn starts another one: a fault at every start shall not keep a
        processor busy.
        """
        try:
            await self.wsgi(self.sockets[0].sock, stop)
        except Exception as fault:
            error = first_error(fault) if isinstance(fault, ExceptionGroup) else fault
            known = {"reason": error.message} if isinstance(error, KmeError) else {}
            _logger.error("worker failed", extra=known, exc_info=None if known else fault)
            await pause(stop, _AFTER_FAULT_S)
            sys.exit(1)

    async def _keep_beating(self, stop: asyncio.Event) -> None:
        """Tell gunicorn that the loop runs; end with gunicorn, however it ends."""
        while True:
            self.notify()
            if os.getppid() != self.ppid:
                stop.set()
            await asyncio.sleep(_BEAT_S)


class GunicornLog(Logger):  # type: ignore[misc]
    """gunicorn's log, sent where everything else of this process goes."""

    def setup(self, cfg: Config) -> None:
        """Let the root logger write."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers = []
            log.propagate = True
