"""grantor - new keys for several slaves: cut once, granted at all their KMEs, then given out."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from kme.clock import Clock
from kme.errors import KmeError, PeerUnavailableError, RequestError, UnavailableError
from kme.ids import KmeId, SaeId
from kme.pairing.ports import Liveness
from kme.store.grants import PROOF_BYTES, Grant
from kme.store.ports import GrantStore
from kme.supply.allocator import Wish
from kme.supply.directory import SaeDirectory
from kme.supply.grants import MAX_SLAVES, GrantLink, deliveries, masked, pad_scope
from kme.supply.ports import Key

_logger = logging.getLogger(__name__)

Homes = Mapping[KmeId, tuple[SaeId, ...]]
"""Further slaves by the KME where they live."""

PadCutter = Callable[[SaeId, tuple[SaeId, ...], Wish], Awaitable[list[Key]]]
"""Cuts pads for a master and slaves of one other KME."""

_BURNT = "no key is given, and the keys cut for this request are burnt: try again later"


@dataclass(frozen=True, slots=True)
class GrantorPorts:
    """What granting works with.

    Parameters
    ----------
    directory
        Which SAE lives where.
    store
        Where grants to slaves of this KME are kept.
    liveness
        Whether the KMEs of all slaves are there.
    links
        The ways to the peers.
    cut_pads
        Cuts pads from the stock shared with a peer, for a master and its slaves there.
    clock
        The time.
    """

    directory: SaeDirectory
    store: GrantStore
    liveness: Liveness
    links: Mapping[KmeId, GrantLink]
    cut_pads: PadCutter
    clock: Clock


class Grantor:
    """Lets further slaves have the keys that a master is given (architecture: rule 9).

    The master gets its keys only after the grants are durable at the KMEs of
    all of these slaves. If one of them refuses or doesn't answer, nobody is
    told the key_IDs, and what is kept already expires.

    Parameters
    ----------
    ports
        Directory, store, ways to the peers, time.
    lifetime_s
        How long slaves of this KME may draw their grants; a peer goes by the
        lifetime of the pad's block.
    """

    def __init__(self, ports: GrantorPorts, lifetime_s: int) -> None:
        self._ports = ports
        self._lifetime_s = lifetime_s

    def homes_of(self, master: SaeId, slave: SaeId, others: Sequence[SaeId]) -> Homes:
        """Return where further slaves live, if the request makes sense.

        Raises
        ------
        RequestError
            If one is unknown, named twice, the first slave or the master.
        PeerUnavailableError
            If the KME of one of them is away.
        """
        if len(others) > MAX_SLAVES:
            raise RequestError(f"at most {MAX_SLAVES} additional slave SAEs can be named")
        if len({slave, *others}) != 1 + len(others):
            raise RequestError("a slave SAE is named twice")
        if master in others:
            raise RequestError("the master SAE is given the key: it can't be an additional slave")
        homes: dict[KmeId, tuple[SaeId, ...]] = {}
        for sae in others:
            home = self._ports.directory.home_of(sae)
            homes[home] = (*homes.get(home, ()), sae)
        for kme in self._remote(homes):
            if kme not in self._ports.links:
                raise PeerUnavailableError(f"KME {kme} is not connected", peer=kme)
            self._ports.liveness.require_alive(kme)
        return homes

    async def issue(
        self, master: SaeId, homes: Homes, wish: Wish, cut: Callable[[], Awaitable[list[Key]]]
    ) -> list[Key]:
        """Cut keys and grant them.

        Parameters
        ----------
        master
            Who is given them.
        homes
            Whom they are granted to (`homes_of`).
        wish
            How many, and how long.
        cut
            Cuts them for the master and the first slave.

        Raises
        ------
        KmeError
            If pads or keys can't be cut, or not all grants are known to be
            durable: what was cut is burnt.
        """
        pads: dict[KmeId, list[Key]] = {}
        keys: list[Key] = []
        try:
            for kme in self._remote(homes):
                scope = pad_scope(self._ports.directory.local, kme)
                pad_wish = Wish(scope, wish.n_keys, wish.n_bytes)
                pads[kme] = await self._ports.cut_pads(master, homes[kme], pad_wish)
            keys = await cut()
            await self._grant(master, homes, keys, pads)
        except BaseException:
            _wipe(keys)
            raise
        finally:
            for cut_pads in pads.values():
                _wipe(cut_pads)
        return keys

    def _remote(self, homes: Homes) -> list[KmeId]:
        return sorted(kme for kme in homes if kme != self._ports.directory.local)

    async def _grant(
        self, master: SaeId, homes: Homes, keys: Sequence[Key], pads: Mapping[KmeId, list[Key]]
    ) -> None:
        """Have all grants kept: by the peers first, they may refuse."""
        outcomes = await asyncio.gather(
            *(self._deliver(kme, master, homes[kme], keys, cut) for kme, cut in pads.items()),
            return_exceptions=True,
        )
        failed = [one for one in outcomes if isinstance(one, BaseException)]
        if failed:
            raise failed[0]
        local = self._ports.directory.local
        if local in homes:
            await self._keep(local, master, homes[local], keys)

    async def _deliver(
        self,
        kme: KmeId,
        master: SaeId,
        slaves: tuple[SaeId, ...],
        keys: Sequence[Key],
        pads: Sequence[Key],
    ) -> None:
        hidden = [masked(key, pad) for key, pad in zip(keys, pads, strict=True)]
        try:
            for delivery in deliveries(master, slaves, hidden):
                await self._ports.links[kme].deliver(delivery)
        except KmeError as error:
            fields = {"peer": kme, "n_keys": len(keys), "reason": error.message}
            _logger.warning("grants not delivered, keys burnt", extra=fields)
            raise PeerUnavailableError(
                f"KME {kme} did not take the keys for its SAEs; {_BURNT}", peer=kme
            ) from error

    async def _keep(
        self, local: KmeId, master: SaeId, slaves: tuple[SaeId, ...], keys: Sequence[Key]
    ) -> None:
        due_s = self._ports.clock.now_s() + self._lifetime_s
        grants = [
            Grant(key.key_id, master, slaves, key.key, secrets.token_bytes(PROOF_BYTES), due_s)
            for key in keys
        ]
        try:
            await self._ports.store.keep_grants(local, grants)
        except UnavailableError as error:
            raise UnavailableError(f"{error.message}; {_BURNT}") from error


def _wipe(keys: Sequence[Key]) -> None:
    for key in keys:
        key.key.wipe()
