"""draw - keys by key_ID: each is given out once, to the SAE that its id names."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from kme.clock import Clock
from kme.errors import (
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OverlapError,
    UnavailableError,
)
from kme.ids import KeyId, SaeId
from kme.secret import Secret
from kme.store.ports import IncidentStore, SupplyStore
from kme.store.records import GranuleRange, Incident, IncidentKind
from kme.supply.cache import BlockCache, OpenBlock
from kme.supply.directory import SaeDirectory
from kme.supply.key_id import IdScope, is_made_for
from kme.supply.ports import Key

_logger = logging.getLogger(__name__)

KEY_NOT_FOUND: Final = "one or more keys specified are not found on KME"
"""The text that ETSI GS QKD 014 clause 6.4 prescribes."""

MAX_CHECKS_PER_REQUEST: Final = 64
"""So many other SAEs are tried for an id whose tag fails for the caller."""

MAX_CHECKS_PER_WINDOW: Final = 4096
"""So many tries one caller may cause in `CHECK_WINDOW_S`."""

CHECK_WINDOW_S: Final = 60.0


class DrawStore(SupplyStore, IncidentStore, Protocol):
    """What drawing needs of a store: ledgers, and where alarms go."""


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
    between burns keys and never gives one out twice.

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
        keys: list[Key] = []
        try:
            encoded_scope = scope.encoded()
            for key_id in key_ids:
                found = await self._read(scope, encoded_scope, key_id)
                keys.append(Key(key_id, found))
            await self._write(scope, key_ids)
        except BaseException:
            for key in keys:
                key.key.wipe()
            raise
        return keys

    async def _read(self, scope: IdScope, encoded_scope: bytes, key_id: KeyId) -> Secret:
        """Return a key's bytes if the id was made for this scope."""
        block = await self._ports.cache.block(scope.master_kme, key_id.block_number)
        if block is None or block.owner != scope.master_kme:
            raise KeyNotFoundError(KEY_NOT_FOUND)
        if not block.holds(key_id.offset_granules, key_id.n_granules):
            raise KeyNotFoundError(KEY_NOT_FOUND)
        if not is_made_for(block.id_key, encoded_scope, key_id):
            raise self._refusal(scope, block, key_id)
        return block.key[key_id.offset_bytes : key_id.offset_bytes + key_id.n_bytes]

    def _refusal(self, scope: IdScope, block: OpenBlock, key_id: KeyId) -> KmeError:
        """Return why the caller can't have this key: somebody else's, or nobody's."""
        others = [sae for sae in self._ports.directory.local_saes if sae != scope.slave]
        for sae in others[: self._budget.grant(scope.slave, len(others))]:
            if is_made_for(block.id_key, replace(scope, slave=sae).encoded(), key_id):
                return NotEntitledError("one or more keys belong to another SAE")
        return KeyNotFoundError(KEY_NOT_FOUND)

    async def _write(self, scope: IdScope, key_ids: Sequence[KeyId]) -> None:
        """Mark the keys as drawn, in the order of their blocks."""
        ranges = [
            GranuleRange(
                key_id.block_number,
                key_id.offset_granules,
                key_id.offset_granules + key_id.n_granules,
            )
            for key_id in key_ids
        ]
        ranges.sort(key=lambda drawn: (drawn.block_number, drawn.start))
        try:
            await self._ports.store.draw(scope.master_kme, ranges)
        except OverlapError as error:
            await self._alarm(scope, error)
            raise OverlapError(KEY_NOT_FOUND) from error
        except KeyNotFoundError as error:
            raise KeyNotFoundError(KEY_NOT_FOUND) from error

    async def _alarm(self, scope: IdScope, overlap: OverlapError) -> None:
        """Keep an alarm; the refusal stands even if that fails."""
        ports = self._ports
        facts = ", ".join(f"{name}={value}" for name, value in overlap.diagnostics().items())
        incident = Incident(
            peer=scope.master_kme,
            kind=IncidentKind.OVERLAPPING_DRAW,
            unix_s=ports.clock.now_s(),
            details=f"master={scope.master}, caller={scope.slave}, {facts}",
        )
        _logger.error("overlapping draw", extra={"details": incident.details})
        try:
            await ports.store.record_incident(incident)
        except UnavailableError as error:
            _logger.error("alarm not kept", extra={"error": str(error)})
