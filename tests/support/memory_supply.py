"""memory_supply - a whole KeySupply over dictionaries, with the promises of the real one."""

import random
from collections.abc import Sequence

from kme.errors import (
    KeyNotFoundError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RequestError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.store.records import SourceClass, Stock
from kme.supply.ports import Key, SupplyStock
from kme.units import granules_of_bytes


class MemoryLink:
    """What both ends of a link hold: who was given which key, and which keys are used up.

    Parameters
    ----------
    homes
        Where each SAE lives.
    n_granules
        How much key there is, for all pairs of SAEs together.
    """

    def __init__(self, homes: dict[SaeId, KmeId], n_granules: int = 1 << 20) -> None:
        self.homes = homes
        self.n_granules = n_granules
        self.source_class = SourceClass.QKD
        self.is_alive = True
        self._rng = random.Random(14)
        self._given: dict[KeyId, tuple[SaeId, SaeId, bytes]] = {}
        self._drawn: set[KeyId] = set()

    def supply_at(self, kme: KmeId) -> "MemorySupply":
        """Return one end's supply."""
        return MemorySupply(self, kme)

    def home_of(self, sae: SaeId) -> KmeId:
        """Return where an SAE lives, or refuse it."""
        if sae not in self.homes:
            raise RequestError(f"SAE {str(sae)!r} is not registered")
        return self.homes[sae]

    def cut(self, master: SaeId, slave: SaeId, n_bytes: int) -> Key:
        """Cut one key."""
        self.n_granules -= granules_of_bytes(n_bytes)
        key_id = KeyId(len(self._given), 8, n_bytes, self._rng.getrandbits(KeyId.TAG_BITS))
        self._given[key_id] = master, slave, self._rng.randbytes(n_bytes)
        return Key(key_id, Secret(self._given[key_id][2]))

    def check(self, key_id: KeyId, master: SaeId, caller: SaeId) -> None:
        """Refuse a key that isn't there, or isn't the caller's."""
        if key_id not in self._given or key_id in self._drawn:
            raise KeyNotFoundError(f"{key_id} is not there")
        if self._given[key_id][:2] != (master, caller):
            raise NotEntitledError("this key is for another SAE")

    def draw(self, key_id: KeyId) -> Key:
        """Give a key out, once."""
        self._drawn.add(key_id)
        return Key(key_id, Secret(self._given[key_id][2]))


class MemorySupply:
    """One end of a `MemoryLink`."""

    def __init__(self, link: MemoryLink, local: KmeId) -> None:
        self._link = link
        self._local = local
        self.more_slaves: tuple[SaeId, ...] = ()

    async def new_keys(
        self,
        master: SaeId,
        slave: SaeId,
        n_keys: int,
        n_bytes: int,
        more_slaves: Sequence[SaeId] = (),
    ) -> list[Key]:
        self._check_homes(master, slave)
        for sae in more_slaves:
            self._link.home_of(sae)
        if not self._link.is_alive:
            raise PeerUnavailableError("the other KME was not heard")
        if n_keys * granules_of_bytes(n_bytes) > self._link.n_granules:
            raise OutOfKeysError("too few keys are in stock")
        self.more_slaves = tuple(more_slaves)
        return [self._link.cut(master, slave, n_bytes) for _ in range(n_keys)]

    async def keys_by_id(self, master: SaeId, caller: SaeId, key_ids: Sequence[KeyId]) -> list[Key]:
        self._check_homes(caller, master)
        if len(set(key_ids)) != len(key_ids):
            raise RequestError("a key_ID is listed twice")
        for key_id in key_ids:
            self._link.check(key_id, master, caller)
        return [self._link.draw(key_id) for key_id in key_ids]

    async def stock(self, master: SaeId, slave: SaeId) -> SupplyStock:
        target = self._check_homes(master, slave)
        room = {self._link.n_granules: 1} if self._link.n_granules else {}
        classes = frozenset({self._link.source_class}) if room else frozenset()
        return SupplyStock(target, self._link.is_alive, classes, Stock(room))

    def _check_homes(self, here: SaeId, there: SaeId) -> KmeId:
        if self._link.home_of(here) != self._local:
            raise RequestError("the calling SAE lives elsewhere")
        target = self._link.home_of(there)
        if target == self._local:
            raise RequestError("both SAEs live at this KME")
        return target
