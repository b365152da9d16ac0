"""fault_proxy - TCP between two KMEs, which a test makes bad while it is used.

It works below TLS, so it can delay, stall, cut and slow bytes, and it cannot
repeat or reorder whole requests: TLS refuses such bytes. Messages that come
twice are the simulation's business; what comes close to it here is `STALL`,
after which a request arrives that its sender gave up long ago.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

_HOST: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 16 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_TRICKLE_BYTES: Final = 100
_TRICKLE_S: Final = 0.05
_STOP_S: Final = 5.0


class Mode(Enum):
    """What becomes of bytes and connections.

    PASS
        All goes through at once.
    DELAY
        Every piece waits up to `FaultProxy.max_delay_s`.
    TRICKLE
        About 2 kB/s go through.
    STALL
        A black hole: nothing goes through and nothing is said. Connections are
        taken. What was swallowed arrives when the mode changes, as TCP repeats
        what was lost.
    HALF_OPEN
        Requests go through, answers don't, and those connections are reset
        when the mode changes: their far end is long gone.
    RESET
        Every connection is reset, old ones as well.
    REFUSE
        Every connection is closed, old ones as well.
    """

    PASS = "pass"
    DELAY = "delay"
    TRICKLE = "trickle"
    STALL = "stall"
    HALF_OPEN = "half-open"
    RESET = "reset"
    REFUSE = "refuse"


class FaultProxy:
    """Listens on one port and passes on to another, as well as its mode allows.

    Parameters
    ----------
    port
        Where it listens, on the loopback address.
    target_port
        Where it passes on to.
    rng
        How long delays are.
    """

    max_delay_s = 0.5

    def __init__(self, port: int, target_port: int, rng: random.Random) -> None:
        self.port, self.target_port = port, target_port
        self.n_connections = 0
        self._rng = rng
        self._mode = Mode.PASS
        self._changed = asyncio.Event()
        self._lives: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def mode(self) -> Mode:
        """How bad it is now."""
        return self._mode

    def switch(self, mode: Mode) -> None:
        """Be as bad as this from now on."""
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FaultProxy"]:
        """Listen until the block ends."""
        self._server = await asyncio.start_server(self._take, _HOST, self.port)
        try:
            yield self
        finally:
            self._server.close()
            for life in self._lives:
                life.cancel()
            if self._lives:
                await asyncio.wait(self._lives, timeout=_STOP_S)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        life = asyncio.current_task()
        assert life is not None
        self._lives.add(life)
        try:
            await self._live(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._lives.discard(life)

    async def _live(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection's bytes on in both directions until it ends."""
        await self._wait_while(Mode.STALL)
        if self._mode in {Mode.RESET, Mode.REFUSE}:
            self._end(writer)
            return
        back_reader, back_writer = await asyncio.open_connection(_HOST, self.target_port)
        ways = [
            asyncio.create_task(self._pass_on(reader, back_writer, is_answer=False)),
            asyncio.create_task(self._pass_on(back_reader, writer, is_answer=True)),
            asyncio.create_task(self._cut()),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (back_writer, writer):
                self._end(one, is_cut=not ways[2].cancelled())

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        """Pass one direction's bytes on until they end."""
        while data := await reader.read(_CHUNK_BYTES):
            if self._mode is Mode.DELAY:
                await asyncio.sleep(self._rng.uniform(0, self.max_delay_s))
            await self._wait_while(Mode.STALL)
            if is_answer and self._mode is Mode.HALF_OPEN:
                await asyncio.Future()  # lost for good; `_cut` ends the connection
            while data and self._mode is Mode.TRICKLE:
                writer.write(data[:_TRICKLE_BYTES])
                data = data[_TRICKLE_BYTES:]
                await asyncio.sleep(_TRICKLE_S)
            writer.write(data)
            await writer.drain()

    def _end(self, writer: asyncio.StreamWriter, *, is_cut: bool = True) -> None:
        if is_cut and self._mode is not Mode.REFUSE:
            _reset(writer)
        else:
            writer.close()

    async def _wait_while(self, mode: Mode) -> None:
        while self._mode is mode:
            await self._changed.wait()

    async def _cut(self) -> None:
        """Return once the connection is to be cut: at once, or when half-open time is over."""
        while self._mode not in {Mode.RESET, Mode.REFUSE}:
            was_half_open = self._mode is Mode.HALF_OPEN
            await self._changed.wait()
            if was_half_open and self._mode is not Mode.HALF_OPEN:
                return


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a RST instead of a FIN."""
    plain = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
