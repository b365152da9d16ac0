"""allocator - new keys of one pair, served from memory out of durable claims."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from kme.clock import Clock
from kme.errors import IntegrityError, KmeError, OutOfKeysError, UnavailableError
from kme.ids import KmeId
from kme.pairing.ports import Liveness
from kme.store.ports import SupplyStore
from kme.store.records import Claim
from kme.supply.cache import BlockCache
from kme.supply.claim import OpenClaim, Step
from kme.supply.ports import Key
from kme.units import granules_of_bytes

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_OPEN_CLAIMS: Final = 8
"""So many remainders are kept for smaller keys; what is more goes back."""

MAX_CLAIM_AGE_S: Final = 600.0
"""No claim is held longer, however few keys are asked for."""

_MAX_CLAIMS_AHEAD: Final = 4
"""Blocks may be smaller than a step; no more than so many are claimed ahead at once."""

_REST_S: Final = 0.25
"""After a fruitless try nothing is claimed ahead for so long; requests still try."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which keys are wanted.

    Parameters
    ----------
    encoded_scope
        Whom they are for (`IdScope.encoded`).
    n_keys
        How many.
    n_bytes
        How long each is, in bytes.
    """

    encoded_scope: bytes
    n_keys: int
    n_bytes: int

    @property
    def n_granules(self) -> int:
        """How many granules each key occupies."""
        return granules_of_bytes(self.n_bytes)


@dataclass(frozen=True, slots=True)
class AllocatorPorts:
    """What an allocator works with.

    Parameters
    ----------
    store
        Where claims are made.
    liveness
        Whether the peer is there.
    cache
        Where blocks are read from.
    clock
        The time.
    worker
        This process's name, fresh for each start.
    """

    store: SupplyStore
    liveness: Liveness
    cache: BlockCache
    clock: Clock
    worker: str


class Allocator:
    """Cuts new keys for one pair (architecture: supply, rules 5 and 7).

    A request is served from `_open` without waiting if there is room. If not,
    requests wait in turn, and one fetch at a time claims more: durable claims
    go to `_pending`, and to `_open` after a heartbeat that began later. While
    the open claims still have room, the next ones are fetched ahead.

    A fetch is a task of its own: a caller that goes away doesn't stop it, so no
    claim gets lost between store and memory. A claim whose writing did not
    clearly succeed is unknown here and thus never used.

    Parameters
    ----------
    peer
        The pair's other KME.
    ports
        Store, liveness, blocks, time.
    """

    def __init__(self, peer: KmeId, ports: AllocatorPorts) -> None:
        self._peer = peer
        self._ports = ports
        self._step = Step(ports.clock)
        self._open: list[OpenClaim] = []
        self._pending: list[OpenClaim] = []
        self._retired: list[tuple[Claim, int]] = []
        self._turn = asyncio.Lock()
        self._fetching: asyncio.Task[KmeError | None] | None = None
        self._rest_until_s = ports.clock.monotonic_s()
        self._is_closing = False
        self._n_dropped = 0

    @property
    def claims(self) -> tuple[OpenClaim, ...]:
        """What may be cut from, now or after the next heartbeat."""
        return (*self._open, *self._pending)

    async def take(self, wish: Wish) -> list[Key]:
        """Cut keys: all that are wished for, or none.

        Raises
        ------
        OutOfKeysError
            If they can't all be had.
        PeerUnavailableError
            If the peer wasn't heard within its lease.
        StoreUnavailableError
            If the store doesn't answer.
        IntegrityError
            If a claimed block is missing or damaged.
        UnavailableError
            If the supply is closing.
        """
        keys = None if self._turn.locked() else self._cut(wish)
        if keys is None:
            async with self._turn:
                keys = await self._cut_in_turn(wish)
        self._tidy()
        self._fetch_ahead_if_low(wish.n_granules)
        return keys

    async def settle(self) -> None:
        """Wait for a fetch under way, so that no claim is between store and memory."""
        if (fetching := self._under_way) is not None:
            await asyncio.wait([fetching])

    def drop(self, upto: int) -> None:
        """Use no claim any more in a block up to this number: the floor rose above it."""
        self._retire([c for c in self.claims if c.claim.reserved.block_number <= upto])

    def drop_all(self) -> None:
        """Use no claim any more, nor one that is being made now: somebody may close them all.

        What is cut from a closed claim would expire too early.
        """
        self._n_dropped += 1
        self._retire(self.claims)

    async def release_old(self) -> None:
        """Give back what was claimed long ago: it holds up the expiry of all keys behind it.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer; what is due is given back later.
        """
        async with self._turn:
            await self.settle()
            due_s = self._ports.clock.monotonic_s() - MAX_CLAIM_AGE_S
            self._retire([claim for claim in self.claims if claim.claimed_s <= due_s])
            await self._give_back_retired()

    async def close(self) -> None:
        """Give back what was never used; nothing is cut any more."""
        self._is_closing = True
        async with self._turn:
            await self.settle()
            self._retire(self.claims)
            try:
                await self._give_back_retired()
            except UnavailableError as error:
                _logger.warning("claims not given back", extra={"error": str(error)})

    def _cut(self, wish: Wish) -> list[Key] | None:
        """Cut all keys at once, without waiting; None if there is too little room."""
        if self._is_closing:
            raise UnavailableError("this KME is stopping")
        self._ports.liveness.require_alive(self._peer)
        n_granules = wish.n_granules
        if sum(claim.room // n_granules for claim in self._open) < wish.n_keys:
            return None
        keys: list[Key] = []
        for claim in self._open:
            n_here = min(claim.room // n_granules, wish.n_keys - len(keys))
            keys += [claim.cut(wish.encoded_scope, wish.n_bytes) for _ in range(n_here)]
        return keys

    async def _cut_in_turn(self, wish: Wish) -> list[Key]:
        keys = self._cut(wish)
        if keys is None and (fetching := self._under_way) is not None:
            await asyncio.shield(fetching)  # its errors belong to whoever started it
            keys = self._cut(wish)
        if keys is None:
            error = await asyncio.shield(self._start(self._fetch(wish)))
            if error is not None:
                raise error
            keys = self._cut(wish)
        if keys is None:  # nobody else cuts meanwhile, but what was claimed may be dropped
            raise UnavailableError("claims were dropped just now: try again later")
        return keys

    @property
    def _under_way(self) -> asyncio.Task[KmeError | None] | None:
        """The fetch that runs now, if one does."""
        return None if self._fetching is None or self._fetching.done() else self._fetching

    def _start(self, fetch: Coroutine[Any, Any, None]) -> asyncio.Task[KmeError | None]:
        assert self._under_way is None, "two fetches would claim at once"
        self._fetching = asyncio.create_task(self._fetch_safely(fetch))
        return self._fetching

    async def _fetch_safely(self, fetch: Coroutine[Any, Any, None]) -> KmeError | None:
        """Fetch; return what went wrong, for whoever still waits for it."""
        try:
            await fetch
        except KmeError as error:
            self._rest()
            _logger.info("no claim", extra={"peer": self._peer, "error": str(error)})
            return error
        return None

    async def _fetch(self, wish: Wish) -> None:
        """Claim until the wish can be met; claim nothing if it can't."""
        await self._give_back_retired()
        n_granules = wish.n_granules
        n_missing = self._n_missing(wish)
        if n_missing > 0:
            stock = await self._ports.store.stock(self._peer)
            if stock.count_of(wish.n_bytes) < n_missing:
                raise OutOfKeysError("too few keys are in stock: try again later or ask for less")
        while n_missing > 0:
            if not await self._claim(n_granules, n_missing * n_granules):
                raise OutOfKeysError("keys ran out meanwhile: try again later or ask for less")
            n_missing = self._n_missing(wish)
        await self._confirm()

    def _n_missing(self, wish: Wish) -> int:
        return wish.n_keys - sum(claim.room // wish.n_granules for claim in self.claims)

    def _fetch_ahead_if_low(self, key_granules: int) -> None:
        room = sum(claim.room for claim in self._open)
        is_due = self._ports.clock.monotonic_s() >= self._rest_until_s
        if room < self._step.n_granules // 2 and self._under_way is None and is_due:
            self._start(self._fetch_ahead(key_granules))

    async def _fetch_ahead(self, key_granules: int) -> None:
        """Claim until there is one step, if there is so much, in a few claims at most."""
        await self._give_back_retired()
        n_claimed = 0
        while n_claimed < _MAX_CLAIMS_AHEAD and (n_lacking := self._n_lacking()) > 0:
            # All blocks are about as large as the last one was.
            size = self._pending[-1].room if self._pending else n_lacking
            n_now = min(_MAX_CLAIMS_AHEAD - n_claimed, -(-n_lacking // size))
            are_there = await _all(*(self._claim(key_granules, key_granules) for _ in range(n_now)))
            n_claimed += n_now
            if not all(are_there):
                self._rest()
                break
        await self._confirm()

    def _n_lacking(self) -> int:
        """Return how many granules are missing to one step."""
        return self._step.n_granules - sum(claim.room for claim in self.claims)

    def _rest(self) -> None:
        self._rest_until_s = self._ports.clock.monotonic_s() + _REST_S

    async def _claim(self, key_granules: int, needed_granules: int) -> bool:
        """Claim one range; False if no block has room for a key of this size."""
        ports, n_dropped = self._ports, self._n_dropped
        want = self._step.fitting(key_granules, needed_granules)
        asked_s = ports.clock.monotonic_s()
        claim = await ports.store.claim(self._peer, ports.worker, key_granules, want)
        if claim is None:
            return False
        try:
            block = await ports.cache.block(self._peer, claim.reserved.block_number)
        except UnavailableError:
            self._retired.append((claim, claim.reserved.start))
            raise
        if n_dropped != self._n_dropped:
            self._retired.append((claim, claim.reserved.start))
            raise UnavailableError("claims are closed just now: try again later")
        if block is None:
            raise IntegrityError(
                "a claimed block is missing", block_number=claim.reserved.block_number
            )
        self._pending.append(OpenClaim(claim, block, asked_s))
        return True

    async def _confirm(self) -> None:
        """Make pending claims usable, after a heartbeat that begins now was accepted."""
        if self._pending:
            await self._ports.liveness.heartbeat_from_now(self._peer)
            self._open += self._pending
            self._pending = []
            self._step.claimed()

    def _tidy(self) -> None:
        """Let go of used-up claims, and of the smallest remainders if there are many."""
        if all(claim.room for claim in self._open) and len(self._open) <= MAX_OPEN_CLAIMS:
            return
        by_room = sorted(self._open, key=lambda claim: claim.room, reverse=True)
        kept = {claim for claim in by_room[:MAX_OPEN_CLAIMS] if claim.room}
        self._retire([claim for claim in self._open if claim not in kept])

    def _retire(self, claims: Sequence[OpenClaim]) -> None:
        """Cut from these claims no more; they are given back when the store is asked next."""
        self._open = [claim for claim in self._open if claim not in claims]
        self._pending = [claim for claim in self._pending if claim not in claims]
        self._retired += [(claim.claim, claim.mark) for claim in claims]
        for claim in claims:
            claim.wipe()

    async def _give_back_retired(self) -> None:
        """Close claims in the store, the last ones of a block first: so their tails join again.

        All at once, so that the store can write them together.
        """
        retired, self._retired = self._retired, []
        retired.sort(key=lambda item: (item[0].reserved.block_number, item[1]), reverse=True)
        closed: set[str] = set()
        try:
            await _all(*(self._give_back(*item, closed) for item in retired))
        finally:
            # What isn't surely closed may be open still; to close it once more does nothing.
            self._retired += [item for item in retired if item[0].nonce not in closed]

    async def _give_back(self, claim: Claim, untouched_from: int, closed: set[str]) -> None:
        await self._ports.store.give_back(self._peer, claim, untouched_from)
        closed.add(claim.nonce)


async def _all(*calls: Coroutine[Any, Any, _T]) -> list[_T]:
    """Wait for all calls, whatever fails, then raise the first error if there is one."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return cast("list[_T]", outcomes)
