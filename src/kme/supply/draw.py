"""draw - keys by key_ID: each is given out once, to the SAE that its id names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from kme.clock import Clock
from kme.errors import (
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OverlapError,
)
from kme.ids import KeyId, SaeId
from kme.secret import Secret
from kme.store.ports import GrantStore, IncidentStore, SupplyStore
from kme.supply.alarm import alarm_of_overlap
from kme.supply.cache import BlockCache, OpenBlock
from kme.supply.directory import SaeDirectory
from kme.supply.granted import granted
from kme.supply.key_id import IdScope, is_made_for, range_of
from kme.supply.ports import Key

KEY_NOT_FOUND: Final = "one or more keys specified are not found on KME"
"""The text that ETSI GS QKD 014 clause 6.4 prescribes."""

MAX_CHECKS_PER_REQUEST: Final = 64
"""So many other SAEs are tried for an id whose tag fails for the caller."""

MAX_CHECKS_PER_WINDOW: Final = 4096
"""So many tries one caller may cause in `CHECK_WINDOW_S`."""

CHECK_WINDOW_S: Final = 60.0


class DrawStore(SupplyStore, GrantStore, IncidentStore, Protocol):
    """What drawing needs of a store: ledgers, grants, and where alarms go."""


class CheckBudget:
    """How often a caller may still have an id tried for other SAEs.

    Parameters
    ----------
    clock
        The time; each caller has `MAX_CHECKS_PER_WINDOW` tries per window.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: dict[SaeId, tuple[float, int]] = {}

    def grant(self, caller: SaeId, n_wanted: int) -> int:
        """Spend up to `n_wanted` tries, and return how many that are."""
        now_s = self._clock.monotonic_s()
        begun_s, n_spent = self._spent.get(caller, (now_s, 0))
        if now_s - begun_s >= CHECK_WINDOW_S:
            begun_s, n_spent = now_s, 0
        n_granted = min(n_wanted, MAX_CHECKS_PER_REQUEST, MAX_CHECKS_PER_WINDOW - n_spent)
        self._spent[caller] = begun_s, n_spent + n_granted
        return n_granted


@dataclass(frozen=True, slots=True)
class DrawPorts:
    """What drawing works with.

    Parameters
    ----------
    directory
        Which SAEs live here.
    store
        Where draws and alarms are written.
    cache
        Where blocks are read from.
    clock
        The time.
    """

    directory: SaeDirectory
    store: DrawStore
    cache: BlockCache
    clock: Clock


class Drawer:
    """Gives out keys by their ids (architecture: supply, rule 8).

    First every id is checked and its bytes are read, then all draws are
    written in one step, then the keys are returned: whatever happens in
    between burns keys and never gives one out twice. An id that wasn't made
    for the caller may be that of a grant; grants are taken in a step of their
    own behind the draws, which find out more often that they can't be.

    Parameters
    ----------
    ports
        Directory, store, blocks, time.
    """

    def __init__(self, ports: DrawPorts) -> None:
        self._ports = ports
        self._budget = CheckBudget(ports.clock)

    async def draw(self, scope: IdScope, key_ids: Sequence[KeyId]) -> list[Key]:
        """Give out keys: all of them or none.

        Parameters
        ----------
        scope
            Whom the keys must be for; its slave SAE is the caller, its
            master's KME the peer whose blocks they come from.
        key_ids
            Which keys, each once.

        Returns
        -------
        list of Key
            In the order of `key_ids`.

        Raises
        ------
        KeyNotFoundError
            If one of them doesn't exist or was drawn before.
        OverlapError
            If part of one was drawn under another id; an alarm is kept.
        NotEntitledError
            If one of them is for another SAE of this KME.
        StoreUnavailableError
            If the store doesn't answer; the keys may be burnt.
        """
        keys: dict[KeyId, Secret] = {}
        try:
            encoded_scope = scope.encoded()
            for key_id in key_ids:
                found = await self._read(scope, encoded_scope, key_id)
                if found is not None:
                    keys[key_id] = found
            cut, others = list(keys), [key_id for key_id in key_ids if key_id not in keys]
            if others:
                keys |= await self._read_grants(scope, others)
            if cut:
                await self._write(scope, cut)
            if others:
                await self._ports.store.take_grants(scope.master_kme, scope.slave, others)
        except BaseException:
            for key in keys.values():
                key.wipe()
            raise
        return [Key(key_id, keys[key_id]) for key_id in key_ids]

    async def _read(self, scope: IdScope, encoded_scope: bytes, key_id: KeyId) -> Secret | None:
        """Return a key's bytes; None if the id was not made for this scope."""
        block = await self._block_of(scope, key_id)
        if block is None or not is_made_for(block.id_key, encoded_scope, key_id):
            return None
        return block.key[key_id.offset_bytes : key_id.offset_bytes + key_id.n_bytes]

    async def _block_of(self, scope: IdScope, key_id: KeyId) -> OpenBlock | None:
        """Return the block that an id names, if the key can lie there."""
        block = await self._ports.cache.block(scope.master_kme, key_id.block_number)
        if block is None or block.owner != scope.master_kme:
            return None
        return block if block.holds(key_id.offset_granules, key_id.n_granules) else None

    async def _read_grants(self, scope: IdScope, key_ids: Sequence[KeyId]) -> dict[KeyId, Secret]:
        """Return the bytes of grants; refuse what is none of the caller's."""
        ports = self._ports
        kept = await ports.store.grants(scope.master_kme, key_ids)
        found = granted(kept, (scope.master, scope.slave), ports.clock.now_s())
        for key_id in key_ids:
            if key_id not in found:
                raise await self._refusal(scope, key_id)
        return found

    async def _refusal(self, scope: IdScope, key_id: KeyId) -> KmeError:
        """Return why the caller can't have this key: somebody else's, or nobody's."""
        block = await self._block_of(scope, key_id)
        if block is None:
            return KeyNotFoundError(KEY_NOT_FOUND)
        others = [sae for sae in self._ports.directory.local_saes if sae != scope.slave]
        for sae in others[: self._budget.grant(scope.slave, len(others))]:
            if is_made_for(block.id_key, replace(scope, slave=sae).encoded(), key_id):
                return NotEntitledError("one or more keys belong to another SAE")
        return KeyNotFoundError(KEY_NOT_FOUND)

    async def _write(self, scope: IdScope, key_ids: Sequence[KeyId]) -> None:
        """Mark the keys as drawn, in the order of their blocks."""
        ranges = [range_of(key_id) for key_id in key_ids]
        ranges.sort(key=lambda drawn: (drawn.block_number, drawn.start))
        try:
            await self._ports.store.draw(scope.master_kme, ranges)
        except OverlapError as error:
            ports, who = self._ports, f"master={scope.master}, caller={scope.slave}"
            await alarm_of_overlap(ports.store, scope.master_kme, ports.clock.now_s(), who, error)
            raise OverlapError(KEY_NOT_FOUND) from error
        except KeyNotFoundError as error:
            raise KeyNotFoundError(KEY_NOT_FOUND) from error
