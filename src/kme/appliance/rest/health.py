"""health - does this worker run, can it serve, and why not: for Docker and for operators."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from kme.clock import Clock
from kme.errors import KmeError

_logger = logging.getLogger(__name__)

LIVE_PATH: Final = "/health/live"
READY_PATH: Final = "/health/ready"

_FRESH_S: Final = 1.0
_PROBE_S: Final = 2.0

Probe = Callable[[], Awaitable[object]]


class Health:
    """What one worker knows about itself.

    Parameters
    ----------
    clock
        Tells how long ago Vault was reached.
    alive
        The file that the container's health check looks at: touched whenever
        this worker serves and Vault answers.
    """

    def __init__(self, clock: Clock, alive: Path) -> None:
        self._clock = clock
        self._alive = alive
        self._probe: Probe | None = None
        self._peers: Callable[[], dict[str, str | None]] = dict
        self._reached_s: float | None = None
        self._probing = asyncio.Lock()

    def begin(self, probe: Probe, peers: Callable[[], dict[str, str | None]]) -> None:
        """Say that the worker serves from now on.

        Parameters
        ----------
        probe
            Asks Vault something small.
        peers
            Says for each peer why it isn't alive; None if it is.
        """
        self._probe, self._peers = probe, peers

    def end(self) -> None:
        """Say that the worker serves no more."""
        self._probe = None

    def reached(self) -> None:
        """Note that Vault answered just now."""
        self._reached_s = self._clock.monotonic_s()
        if self._probe is not None:
            with suppress(OSError):  # a full disk is no reason to stop serving
                self._alive.touch()

    async def is_ready(self) -> bool:
        """Return whether this worker serves and Vault answers, asked just now if need be."""
        if self._probe is None:
            return False
        async with self._probing:
            if not self._is_fresh():
                await self._ask(self._probe)
            return self._is_fresh()

    async def answer(self, request: Request) -> Response:
        """Answer one of the two questions."""
        if request.url.path == LIVE_PATH:
            return _json(HTTPStatus.OK, {"status": "alive"})
        if request.url.path != READY_PATH:
            return _json(HTTPStatus.NOT_FOUND, {"message": "Not Found"})
        is_ready = await self.is_ready()
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        peers = {peer: reason or "alive" for peer, reason in self._peers().items()}
        return _json(status, {"status": "ready" if is_ready else "not ready", "peers": peers})

    def _is_fresh(self) -> bool:
        reached_s = self._reached_s
        return reached_s is not None and self._clock.monotonic_s() - reached_s <= _FRESH_S

    async def _ask(self, probe: Probe) -> None:
        try:
            async with asyncio.timeout(_PROBE_S):
                await probe()
        except (KmeError, TimeoutError) as error:
            _logger.debug("not ready", extra={"reason": str(error) or "Vault is slow"})
        else:
            self.reached()


def _json(status: int, body: dict[str, Any]) -> Response:
    return Response(
        json.dumps(body).encode(),
        status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
