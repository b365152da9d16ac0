"""supply - key blocks of this KME's links become keys for its SAEs, once each."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

from kme.clock import Clock
from kme.errors import OutOfKeysError, PeerUnavailableError, RequestError, UnavailableError
from kme.ids import KeyId, KmeId, SaeId
from kme.pairing.ports import Liveness
from kme.store.ports import Store
from kme.supply.allocator import Allocator, AllocatorPorts, Wish
from kme.supply.cache import DEFAULT_CACHE_BYTES, BlockCache
from kme.supply.directory import SaeDirectory
from kme.supply.draw import Drawer, DrawPorts
from kme.supply.grantor import Grantor, GrantorPorts
from kme.supply.grants import GrantLink
from kme.supply.key_id import IdScope
from kme.supply.local import AlwaysAlive, LocalBlocks, LocalKeys, give_up_after_restore
from kme.supply.ports import Key, SupplyStock
from kme.supply.reserves import Reserve, Reserves
from kme.supply.stocktaker import StockTaker
from kme.units import GRANULE_BYTES

_logger = logging.getLogger(__name__)

MAX_KEYS_PER_CALL: Final = 4096
"""More is refused at once; interfaces offer less."""


@dataclass(frozen=True, slots=True)
class SupplyLimits:
    """How much the supply keeps in memory, for whom it keeps key, and what it may make itself.

    Parameters
    ----------
    cache_bytes
        How many bytes of blocks.
    stock_shared_s
        For how long one count of a pair's stock answers all who ask for it; 0
        where counting is cheap.
    reserves
        How much of the stock is kept for certain pairs of SAEs.
    local_pairs
        Whether two SAEs of this KME may have keys: random numbers of this host.
    local_lifetime_s
        How long SAEs of this KME may draw what no other KME took part in.
    """

    cache_bytes: int = DEFAULT_CACHE_BYTES
    stock_shared_s: float = 0.0
    reserves: Sequence[Reserve] = ()
    local_pairs: bool = False
    local_lifetime_s: int = 86_400


class LinkSupply:
    """A `kme.supply.ports.KeySupply` for SAEs whose KMEs share a link, or live at one KME.

    It works in both directions: it cuts new keys from the blocks that this KME
    owns, and gives out keys by their ids from those that the peer owns, and
    those that were granted to SAEs of this KME.

    Parameters
    ----------
    directory
        Which SAE lives where.
    store
        Blocks, claims, ledgers, alarms.
    liveness
        Whether each peer is there, and this KME wasn't rolled back.
    clock
        The time.
    worker
        Name for this process's claims, fresh for each start
        (`kme.supply.claim.fresh_worker_name`).
    limits
        How much is kept in memory, and for how long.
    links
        The ways to the peers for keys of further slaves; a peer that is missing
        is not connected.
    """

    def __init__(  # noqa: PLR0913 - one place composes it
        self,
        directory: SaeDirectory,
        store: Store,
        liveness: Liveness,
        clock: Clock,
        worker: str,
        limits: SupplyLimits = SupplyLimits(),
        *,
        links: Mapping[KmeId, GrantLink] = MappingProxyType({}),
    ) -> None:
        self._directory = directory
        self._store = store
        self._liveness = liveness
        self._cache = BlockCache(store, limits.cache_bytes)
        self._worker = worker
        ports = AllocatorPorts(store, liveness, self._cache, clock, worker)
        self._allocators = {peer: Allocator(peer, ports) for peer in directory.peers}
        self._stocktakers = {
            peer: StockTaker(peer, allocator, store, clock, limits.stock_shared_s)
            for peer, allocator in self._allocators.items()
        }
        self._reserves = Reserves(limits.reserves)
        self._turns = {peer: asyncio.Lock() for peer in directory.peers}
        self._drawer = Drawer(DrawPorts(directory, store, self._cache, clock))
        granting = GrantorPorts(directory, store, liveness, links, self._cut_pads, clock)
        self._grantor = Grantor(granting, limits.local_lifetime_s)
        self._local_blocks = LocalBlocks(directory.local, store, limits.local_lifetime_s)
        self._local_keys: LocalKeys | None = None
        if limits.local_pairs:
            alone = AllocatorPorts(store, AlwaysAlive(), self._cache, clock, worker)
            cutter = self._allocators[directory.local] = Allocator(directory.local, alone)
            self._local_keys = LocalKeys(self._local_blocks, cutter, clock)
        self._is_open = False

    async def open(self, *, closes_lapsed: bool = True) -> None:
        """Close what earlier lives of this KME had claimed, and serve from now on.

        Parameters
        ----------
        closes_lapsed
            False if another process of this KME closes it, and those of all
            its processes.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer; nothing is served then.
        """
        n_lapsed = await self._store.close_claims() if closes_lapsed else 0
        if n_lapsed:
            _logger.warning("lapsed claims closed", extra={"n_claims": n_lapsed})
        await give_up_after_restore(self._directory.local, self._store)
        if self._local_keys is not None:
            await self._local_blocks.close_earlier()
        self._is_open = True

    async def close(self) -> None:
        """Serve no more, give back what was claimed and not used, wipe what is in memory."""
        self._is_open = False
        for allocator in self._allocators.values():
            await allocator.close()
        try:
            await self._store.close_claims(self._worker)
        except UnavailableError as error:
            _logger.warning("claims not closed", extra={"error": str(error)})
        self._cache.wipe()

    async def new_keys(
        self,
        master: SaeId,
        slave: SaeId,
        n_keys: int,
        n_bytes: int,
        more_slaves: Sequence[SaeId] = (),
    ) -> list[Key]:
        """Cut fresh keys for a master SAE of this KME and the slave SAEs that it names.

        See Also
        --------
        kme.supply.ports.KeySupply.new_keys : Parameters and errors.
        """
        self._check_open()
        scope = self._scope_from_here(master, slave)
        _check_count(n_keys)
        if not 1 <= n_bytes <= KeyId.MAX_BYTES:
            raise RequestError(f"a key has 1 to {KeyId.MAX_BYTES} bytes, not {n_bytes}")
        wish = Wish(scope.encoded(), n_keys, n_bytes)
        if not more_slaves:
            return await self._cut(scope, wish)
        homes = self._grantor.homes_of(master, slave, more_slaves)
        if scope.slave_kme == self._directory.local:
            self._local().note_grants(len(homes.get(scope.slave_kme, ())), wish)
        cut = partial(self._cut, scope, wish)
        return await self._grantor.issue(master, homes, wish, cut)

    async def _cut(self, scope: IdScope, wish: Wish) -> list[Key]:
        if scope.slave_kme == self._directory.local:
            return await self._local().take(wish)
        kept = self._reserves.kept_from(scope.master, scope.slave, self._directory)
        return await self._take(scope.slave_kme, wish, kept)

    async def _cut_pads(self, master: SaeId, slaves: tuple[SaeId, ...], wish: Wish) -> list[Key]:
        kept = min(self._reserves.kept_from(master, one, self._directory) for one in slaves)
        return await self._take(self._directory.home_of(slaves[0]), wish, kept)

    async def _take(self, peer: KmeId, wish: Wish, kept: int) -> list[Key]:
        """Cut keys from the stock shared with a peer, but for what is kept for others."""
        if not kept:
            return await self._allocators[peer].take(wish)
        async with self._turns[peer]:
            await self._require_left(peer, kept, wish)
            return await self._allocators[peer].take(wish)

    async def keys_by_id(self, master: SaeId, caller: SaeId, key_ids: Sequence[KeyId]) -> list[Key]:
        """Give out, once, the keys that a master SAE of a peer was given.

        See Also
        --------
        kme.supply.ports.KeySupply.keys_by_id : Parameters and errors.
        """
        self._check_open()
        peer = self._directory.home_of(master)
        self._check_local(caller)
        _check_count(len(key_ids))
        if len(set(key_ids)) != len(key_ids):
            raise RequestError("a key_ID is listed twice, but each key is delivered once")
        if peer != self._directory.local:
            self._liveness.require_heard_once(peer)
        scope = IdScope.on_link((master, peer), (caller, self._directory.local))
        return await self._drawer.draw(scope, key_ids)

    async def stock(self, master: SaeId, slave: SaeId) -> SupplyStock:
        """Return what `new_keys` could give to this pair of SAEs.

        See Also
        --------
        kme.supply.ports.KeySupply.stock : Parameters and errors.
        """
        self._check_open()
        target = self._scope_from_here(master, slave).slave_kme
        if target == self._directory.local:
            return self._local().stock()
        stock = await self.stock_for(target)
        return replace(stock, kept_bytes=self._reserves.kept_from(master, slave, self._directory))

    async def heed_floors(self) -> None:
        """Stop using what was claimed in blocks that an operator has cleared since.

        Every process that cuts keys calls it now and then; until it does, masters
        may be given keys that their slaves are refused.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        for peer, allocator in self._allocators.items():
            allocator.drop((await self._store.pairing(peer)).floor_allocate)
        for stocktaker in self._stocktakers.values():
            stocktaker.forget()

    def drop_claims(self) -> None:
        """Stop using all that was claimed, because another process may close these claims."""
        for allocator in self._allocators.values():
            allocator.drop_all()

    async def release_old_claims(self) -> None:
        """Give back what was claimed long ago; every process that cuts keys does it now and then.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        for allocator in self._allocators.values():
            await allocator.release_old()

    async def stock_for(self, peer: KmeId) -> SupplyStock:
        """Return what `new_keys` could give to SAEs of this KME and of one peer.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        stock = await self._stocktakers[peer].count(is_alive=self._is_alive(peer))
        return replace(stock, is_peer_alive=self._is_alive(peer))

    async def _require_left(self, peer: KmeId, kept: int, wish: Wish) -> None:
        """Return if enough for others is left behind these keys."""
        wanted = wish.n_keys * wish.n_granules * GRANULE_BYTES
        taker, is_alive = self._stocktakers[peer], self._is_alive(peer)
        stock = await taker.count(is_alive=is_alive)
        if stock.room.n_bytes - wanted < 2 * kept:
            # Other processes take from it, too: near the end an older count won't do.
            taker.forget()
            stock = await taker.count(is_alive=is_alive)
        if stock.room.n_bytes - wanted < kept:
            raise OutOfKeysError(
                "what is left in stock is kept for other SAEs: try again later or ask for less"
            )

    def _is_alive(self, peer: KmeId) -> bool:
        try:
            self._liveness.require_alive(peer)
        except PeerUnavailableError:
            return False
        return True

    def _scope_from_here(self, master: SaeId, slave: SaeId) -> IdScope:
        self._check_local(master)
        home = self._directory.home_of(slave)
        if home == self._directory.local:
            self._local()  # refuses where that is not offered
        return IdScope.on_link((master, self._directory.local), (slave, home))

    def _local(self) -> LocalKeys:
        """Return what makes keys for two SAEs of this KME."""
        if self._local_keys is None:
            raise RequestError(
                "keys for two SAEs of the same KME are not offered: they would be random numbers"
                " of this KME, no quantum keys; its setting offer.local_pairs allows them"
            )
        return self._local_keys

    def _check_local(self, sae: SaeId) -> None:
        if not self._directory.is_local(sae):
            raise RequestError(f"SAE {str(sae)!r} is not registered at this KME")

    def _check_open(self) -> None:
        if not self._is_open:
            raise UnavailableError("this KME is starting or stopping")


def _check_count(n_keys: int) -> None:
    if not 1 <= n_keys <= MAX_KEYS_PER_CALL:
        raise RequestError(f"1 to {MAX_KEYS_PER_CALL} keys can be asked for, not {n_keys}")
