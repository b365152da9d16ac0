"""feed - how the peers are doing, said by the elected worker, heard by all workers of the host.

A stream socket in the workers' own folder (mode 0700) carries lines of JSON. The elected
worker sends how every peer is doing: on each change, and at least once a
second. Times are of the machine's monotonic clock, which all of them share. A
worker asks for a heartbeat by a line ``{"ask": 1, "peer": "kme-2"}``; the
answer ``{"answer": 1, "error": null}`` comes behind the lines that result.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from kme.clock import Clock
from kme.errors import KmeError, SettingsError
from kme.ids import KmeId
from kme.pairing.ports import PeerLiveness

_logger = logging.getLogger(__name__)

SILENCE_S: Final = 3.0
"""What was said counts for so long; the elected worker speaks three times as often."""

MAX_LINE_BYTES: Final = 256 * 1024

_LOOK_S: Final = 0.25
_SPEAK_S: Final = 1.0
_MAX_WORKERS: Final = 64
_MAX_ASKED: Final = 64


class Known(Protocol):
    """What the elected worker knows (`kme.pairing.pairing.Pairing` is one)."""

    def liveness(self) -> Mapping[KmeId, PeerLiveness]:
        """Return how each peer is doing now."""
        ...

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        """Return after a heartbeat that begins after this call was accepted."""
        ...


class LivenessSpeaker:
    """The elected worker's end.

    Parameters
    ----------
    known
        What there is to say.
    clock
        Paces the looks at it.
    """

    def __init__(self, known: Known, clock: Clock) -> None:
        self._known = known
        self._clock = clock
        self._listeners: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def speaking(self, path: Path) -> AsyncIterator[None]:
        """Speak to whoever connects to a socket, while the context lasts.

        Raises
        ------
        SettingsError
            If there can be no socket of that name.
        """
        try:
            _make_way(path)
            server = await asyncio.start_unix_server(self.attend, path, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise SettingsError(f"{path}: no socket can be made: {error.strerror}") from error
        repeating = asyncio.create_task(self._keep_speaking())
        try:
            yield
        finally:
            repeating.cancel()
            server.close()
            for listener in list(self._listeners):
                listener.transport.abort()
            await asyncio.wait([repeating])

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one worker until it goes."""
        if len(self._listeners) >= _MAX_WORKERS:
            writer.transport.abort()
            return
        self._listeners.add(writer)
        answering: set[asyncio.Task[None]] = set()
        try:
            writer.write(self._state())
            while line := await reader.readline():
                if len(answering) < _MAX_ASKED:
                    task = asyncio.create_task(self._answer(json.loads(line), writer))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
        except (OSError, ValueError) as error:
            _logger.info("a worker's line ended", extra={"reason": str(error)})
        finally:
            self._listeners.discard(writer)
            for task in answering:
                task.cancel()
            writer.close()

    async def _answer(self, question: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        """Have a heartbeat sent, and tell everybody what came of it before who asked."""
        refusal: str | None = None
        try:
            await self._known.heartbeat_from_now(KmeId(question["peer"]))
        except KmeError as error:
            refusal = error.message
        self._speak(self._state())
        writer.write(_line({"answer": question["ask"], "error": refusal}))

    async def _keep_speaking(self) -> None:
        """Say what changed soon, and the same again after a while."""
        last, spoken_s = b"", 0.0
        while True:
            state, now_s = self._state(), self._clock.monotonic_s()
            if state != last or now_s - spoken_s >= _SPEAK_S:
                self._speak(state)
                last, spoken_s = state, now_s
            await self._clock.sleep(_LOOK_S)

    def _speak(self, line: bytes) -> None:
        for listener in list(self._listeners):
            if listener.transport.get_write_buffer_size() > MAX_LINE_BYTES:
                listener.transport.abort()  # it does not listen
            else:
                listener.write(line)

    def _state(self) -> bytes:
        return _line({"peers": {name: asdict(p) for name, p in self._known.liveness().items()}})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _make_way(path: Path) -> None:
    """Remove the socket of whoever was elected before: only the elected worker comes here."""
    path.unlink(missing_ok=True)
