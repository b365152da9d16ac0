"""listener - what the elected worker says in, the liveness of the peers for this worker out."""

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from kme.clock import Clock
from kme.errors import PeerUnavailableError
from kme.ids import KmeId
from kme.pairing.ports import PeerLiveness
from kme.workers.feed import MAX_LINE_BYTES, SILENCE_S

_logger = logging.getLogger(__name__)

_CONNECT_AGAIN_S: Final = 0.25

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_SILENT: Final = "no worker of this KME keeps in touch with its peers now: try again later"


class LivenessListener:
    """The `kme.pairing.ports.Liveness` of a worker that was told by the elected one.

    Without the elected worker's voice no peer counts as alive. That a peer was
    heard since this process started stays true.

    Parameters
    ----------
    clock
        The machine's monotonic clock.
    lease_s
        How long to wait for a heartbeat that was asked for.
    """

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self.on_silence: Callable[[], None] = _do_nothing
        """Called when the elected worker is heard no more; the next one closes all claims."""
        self._clock = clock
        self._lease_s = lease_s
        self._peers: Mapping[KmeId, PeerLiveness] = {}
        self._spoken_s: float | None = None
        self._heard: set[KmeId] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[str | None]] = {}

    async def run(self, path: Path) -> None:
        """Listen to whoever is elected, until cancelled."""
        await self.listen(lambda: asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES))

    async def listen(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        """Listen to one connection after the other, until cancelled."""
        while True:
            with suppress(OSError):
                await self._listen_once(*await connect())
            await self._clock.sleep(_CONNECT_AGAIN_S)

    def require_alive(self, peer: KmeId) -> None:
        """Return if the peer was heard within its lease.

        Raises
        ------
        PeerUnavailableError
            If it was not, one of the two was rolled back, it isn't connected,
            or no elected worker is heard.
        """
        now_s = self._clock.monotonic_s()
        if self._spoken_s is None or now_s - self._spoken_s >= SILENCE_S:
            raise PeerUnavailableError(_SILENT)
        state = self._state(peer)
        if state.not_alive is not None:
            raise PeerUnavailableError(state.not_alive, peer=peer)
        if state.alive_until_s is None or now_s >= state.alive_until_s:
            raise PeerUnavailableError(
                f"KME {peer} was not heard within its lease: try again later", peer=peer
            )

    def require_heard_once(self, peer: KmeId) -> None:
        """Return if a heartbeat was accepted since this process started, and our store is sound.

        Raises
        ------
        PeerUnavailableError
            If not: what was handed out before could be handed out again.
        """
        unsound = self._state(peer).unsound
        if unsound is not None:
            raise PeerUnavailableError(unsound, peer=peer)
        if peer not in self._heard:
            raise PeerUnavailableError(
                f"KME {peer} was not heard since this KME started: try again later", peer=peer
            )

    async def heartbeat_from_now(self, peer: KmeId) -> None:
        """Return after a heartbeat that begins after this call was accepted.

        Raises
        ------
        PeerUnavailableError
            If none was accepted within the lease.
        """
        begun_s = self._clock.monotonic_s()
        refusal = await self._ask(peer)
        if refusal is not None:
            raise PeerUnavailableError(refusal, peer=peer)
        self.require_alive(peer)
        accepted_s = self._state(peer).begun_s
        if accepted_s is None or accepted_s < begun_s:
            raise PeerUnavailableError(f"KME {peer} accepted no heartbeat: try again later")

    def _state(self, peer: KmeId) -> PeerLiveness:
        state = self._peers.get(peer)
        if state is None:
            if self._spoken_s is None:
                raise PeerUnavailableError(_SILENT)
            raise PeerUnavailableError(
                f"KME {peer} is not connected to this KME yet: its operator runs `make connect`",
                peer=peer,
            )
        return state

    async def _ask(self, peer: KmeId) -> str | None:
        """Ask for a heartbeat; return why there was none, or None."""
        if self._writer is None:
            return _SILENT
        number = next(self._numbers)
        waiter: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiter
        try:
            self._writer.write(json.dumps({"ask": number, "peer": peer}).encode() + b"\n")
            async with asyncio.timeout(self._lease_s):
                return await waiter
        except TimeoutError:
            return f"KME {peer} accepted no heartbeat in time: try again later"
        finally:
            self._waiting.pop(number, None)

    async def _listen_once(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writer = writer
        try:
            while line := await reader.readline():
                self._hear(json.loads(line))
        except ValueError as error:
            _logger.warning("the elected worker is not understood", extra={"reason": str(error)})
        finally:
            self._writer, self._spoken_s = None, None
            self.on_silence()
            writer.close()
            for waiter in self._waiting.values():
                if not waiter.done():
                    waiter.set_result("the elected worker has changed: try again later")

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "answer" in message:
            waiter = self._waiting.get(message["answer"])
            if waiter is not None and not waiter.done():
                waiter.set_result(message["error"])
            return
        self._peers = {KmeId(name): PeerLiveness(**p) for name, p in message["peers"].items()}
        for name, state in self._peers.items():
            if state.unsound is not None:
                # Whoever is elected next has to find that out anew.
                self._heard.discard(name)
            elif state.begun_s is not None:
                self._heard.add(name)
        self._spoken_s = self._clock.monotonic_s()


def _do_nothing() -> None:
    """Nobody holds claims."""
