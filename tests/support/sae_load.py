"""sae_load - many SAE connections at once that ask for keys and draw them, and note all of it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from histories import NEVER_S, Asked, Given, History, Outcome
from kme.errors import (
    HandshakeError,
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    PeerUnavailableError,
    UnavailableError,
)
from kme.etsi014.client import DeliveredKey, Sae014Client
from kme.ids import KeyId, SaeId
from pair_on_host import ALICE, BOB, BOTH_WAYS, EVE

N_MASTERS: Final = 16
N_SLAVES: Final = 14
N_EVES: Final = 2
N_CONNECTIONS: Final = N_MASTERS + N_SLAVES + N_EVES

KEY_BYTES: Final = 32

MAX_KEYS: Final = 4
_MAX_WAITING: Final = 200
_PAUSE_S: Final = 0.2
_POLL_S: Final = 0.02
_MAX_TIMES: Final = 1000

OpenClient = Callable[[SaeId], AbstractAsyncContextManager[Sae014Client]]


@dataclass(frozen=True, slots=True)
class _Ticket:
    """Ids that wait to be drawn together, and how often that was tried."""

    master: SaeId
    key_ids: Sequence[str]
    n_tries: int = 0


@dataclass
class Surprises:
    """Answers that no fault excuses."""

    words: list[str] = field(default_factory=list)

    def note(self, error: KmeError) -> None:
        """Keep what kind of error it was."""
        self.words.append(f"{type(error).__name__}: {error}")


class SaeLoad:
    """Masters ask for keys, slaves draw them, alone, together and against each other.

    Each id is drawn until the outcome is known; some are drawn by two
    connections at once, some again later, some are asked for by an SAE that
    may not have them, some are altered.

    Parameters
    ----------
    open_client
        Connects an SAE to its KME; each client is used for one request at a time.
    rng
        Who does what.
    draws_by_block
        Whether keys of several blocks are drawn block after block: what a
        request has drawn when it is refused is burnt then.
    """

    def __init__(
        self, open_client: OpenClient, rng: random.Random, *, draws_by_block: bool = False
    ) -> None:
        self.history = History()
        self.surprises = Surprises()
        self._open_client = open_client
        self._rng = rng
        self._draws_by_block = draws_by_block
        self._tickets: Mapping[SaeId, asyncio.Queue[_Ticket]] = {
            sae: asyncio.Queue() for sae in (ALICE, BOB, EVE)
        }
        self._is_asking = True

    @property
    def n_answered(self) -> int:
        """How many keys masters have got."""
        return len(self.history.given)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SaeLoad"]:
        """Work with all connections; at the end wait until each id's outcome is known."""
        async with AsyncExitStack() as stack:

            async def client(sae: SaeId) -> Sae014Client:
                return await stack.enter_async_context(self._open_client(sae))

            masters = [BOTH_WAYS[i % 2] for i in range(N_MASTERS)]
            asking = [
                self._start(self._ask(await client(one), one, other)) for one, other in masters
            ]
            slaves = [BOTH_WAYS[i % 2][1] for i in range(N_SLAVES)] + [EVE] * N_EVES
            drawing = [self._start(self._draw(await client(sae), sae)) for sae in slaves]
            try:
                yield self
                self._is_asking = False
                await _all_or_first_error(asking, drawing)
                for tickets in self._tickets.values():
                    await _all_or_first_error([self._start(tickets.join())], drawing)
            finally:
                for task in (*asking, *drawing):
                    task.cancel()
                await asyncio.gather(*asking, *drawing, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.create_task(work)

    async def is_back(self, timeout_s: float) -> float:
        """Wait until keys go over in both directions; return how long that took in seconds."""
        begun_s = time.monotonic()
        given, asked = self.history.given, self.history.asked
        from_given, from_asked = len(given), len(asked)
        async with asyncio.timeout(timeout_s):
            while True:
                masters = {one.master for one in given[from_given:]}
                slaves = {one.caller for one in asked[from_asked:] if one.key is not None}
                if len(masters) == len(BOTH_WAYS) == len(slaves):
                    return time.monotonic() - begun_s
                await asyncio.sleep(_POLL_S)

    # Masters

    async def _ask(self, client: Sae014Client, master: SaeId, slave: SaeId) -> None:
        while self._is_asking:
            if self._tickets[slave].qsize() > _MAX_WAITING:
                await asyncio.sleep(_PAUSE_S)
                continue
            n_keys = self._rng.randint(1, MAX_KEYS)
            call_s = time.monotonic()
            try:
                keys = await client.enc_keys(slave, n_keys, 8 * KEY_BYTES)
            except (UnavailableError, HandshakeError) as error:
                self.history.n_unanswered += n_keys if _may_have_arrived(error) else 0
                await asyncio.sleep(_PAUSE_S)
            except KmeError as error:
                self.surprises.note(error)
            else:
                self._took(keys, master, slave, call_s)

    def _took(
        self, keys: Sequence[DeliveredKey], master: SaeId, slave: SaeId, call_s: float
    ) -> None:
        return_s = time.monotonic()
        for key in keys:
            one = Given(key.key_id, key.key.reveal(), master, slave, call_s, return_s)
            self.history.given.append(one)
        self._hand_over(master, slave, [key.key_id for key in keys])

    def _hand_over(self, master: SaeId, slave: SaeId, key_ids: Sequence[str]) -> None:
        """Have keys drawn, in one of the ways in which SAEs may do that."""
        tickets = [_Ticket(master, key_ids)]
        how = self._rng.random()
        if how < 0.4:
            tickets = [_Ticket(master, [key_id]) for key_id in key_ids]
        elif how < 0.6:
            # Two connections at once, and the ids in another order.
            tickets = [_Ticket(master, [key_id]) for key_id in key_ids] * 2
            self._rng.shuffle(tickets)
        elif how < 0.7:
            tickets += [_Ticket(master, [self._rng.choice(key_ids)])]
        for ticket in tickets:
            self._tickets[slave].put_nowait(ticket)
        if slave == BOB and how > 0.8:
            chosen = self._rng.choice(key_ids)
            self._tickets[EVE].put_nowait(_Ticket(master, [chosen], _MAX_TIMES))
            self._tickets[BOB].put_nowait(_Ticket(master, [self._altered(chosen)], _MAX_TIMES))

    def _altered(self, key_id: str) -> str:
        made = KeyId.parse(key_id)
        flipped = made.tag ^ 1 << self._rng.randrange(KeyId.TAG_BITS)
        return str(KeyId(made.block_number, made.offset_granules, made.n_bytes, flipped))

    # Slaves

    async def _draw(self, client: Sae014Client, caller: SaeId) -> None:
        tickets = self._tickets[caller]
        while True:
            ticket = await tickets.get()
            try:
                outcome = await self._try(client, caller, ticket)
                for again in self._rest(ticket, outcome):
                    tickets.put_nowait(again)
                if outcome is Outcome.AMBIGUOUS:
                    await asyncio.sleep(_PAUSE_S)
            finally:
                tickets.task_done()

    async def _try(self, client: Sae014Client, caller: SaeId, ticket: _Ticket) -> Outcome:
        call_s = time.monotonic()
        keys: Sequence[bytes | None] = [None] * len(ticket.key_ids)
        outcome = Outcome.AMBIGUOUS
        try:
            drawn = await client.dec_keys(ticket.master, ticket.key_ids)
            keys = [key.key.reveal() for key in drawn]
            outcome = Outcome.OK
        except (KeyNotFoundError, NotEntitledError):
            is_one = len(ticket.key_ids) == 1
            outcome = Outcome.REFUSED if is_one else Outcome.REFUSED_TOGETHER
        except (UnavailableError, HandshakeError) as error:
            is_refused = isinstance(error, PeerUnavailableError)
            if is_refused or isinstance(error.__cause__, httpx.ConnectError):
                return outcome  # nothing was looked at: that says nothing about the key
        except KmeError as error:
            self.surprises.note(error)
        noted = self._of_each(ticket, outcome)
        return_s = NEVER_S if noted is Outcome.AMBIGUOUS else time.monotonic()
        self.history.asked += [
            Asked(key_id, ticket.master, caller, noted, key, call_s, return_s)
            for key_id, key in zip(ticket.key_ids, keys, strict=True)
        ]
        return outcome

    def _of_each(self, ticket: _Ticket, outcome: Outcome) -> Outcome:
        """Return what the outcome of a request says about each of its ids."""
        n_blocks = len({KeyId.parse(key_id).block_number for key_id in ticket.key_ids})
        is_unclear = outcome is Outcome.REFUSED_TOGETHER and self._draws_by_block and n_blocks > 1
        return Outcome.AMBIGUOUS if is_unclear else outcome

    @staticmethod
    def _rest(ticket: _Ticket, outcome: Outcome) -> list[_Ticket]:
        """Return what is still to be asked: what nobody knows, or one by one what was refused."""
        n_tries = ticket.n_tries + 1
        if outcome is Outcome.AMBIGUOUS and n_tries <= _MAX_TIMES:
            return [_Ticket(ticket.master, ticket.key_ids, n_tries)]
        if outcome is Outcome.REFUSED_TOGETHER:
            return [_Ticket(ticket.master, [key_id], n_tries) for key_id in ticket.key_ids]
        return []


def _may_have_arrived(error: KmeError) -> bool:
    """Whether a request was sent, and no answer tells what became of it."""
    cause = error.__cause__
    return isinstance(cause, httpx.TransportError) and not isinstance(cause, httpx.ConnectError)


async def _all_or_first_error(
    awaited: Sequence["asyncio.Task[None]"], others: Sequence["asyncio.Task[None]"]
) -> None:
    """Wait until all of the first are done; raise if one of either fails before."""
    left = set(awaited)
    while left:
        done, _ = await asyncio.wait({*left, *others}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        left -= done
