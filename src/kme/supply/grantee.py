"""grantee - a peer's masked keys in, grants out: checked, unmasked and kept, once."""

import logging
from typing import Final

from kme.errors import (
    InputError,
    KeyNotFoundError,
    OverlapError,
    RefusedError,
    RequestError,
)
from kme.ids import KmeId
from kme.pairing.ports import Liveness
from kme.store.grants import Grant, KeptGrant
from kme.supply.alarm import alarm_of_overlap
from kme.supply.draw import DrawPorts
from kme.supply.grants import Delivery, MaskedKey, pad_scope, unmasked
from kme.supply.key_id import is_made_for, range_of

_logger = logging.getLogger(__name__)

_NO_PAD: Final = "a pad is not one of this pair's for grants, or was used before"


class Grantee:
    """The `kme.supply.grants.GrantHandler` of a KME.

    Parameters
    ----------
    ports
        Which SAEs live here, store, blocks, time.
    liveness
        Whether this KME wasn't rolled back: it could keep again what was taken.
    """

    def __init__(self, ports: DrawPorts, liveness: Liveness) -> None:
        self._ports = ports
        self._liveness = liveness

    async def on_delivery(self, peer: KmeId, delivery: Delivery) -> None:
        """Keep grants; return when they are durable.

        What is kept already must be the same; nothing is done then, and the
        grant does not come back if it was taken.

        Raises
        ------
        RequestError
            If the master doesn't live at the peer, or a slave not here.
        KeyNotFoundError
            If a pad isn't one, or was drawn before.
        OverlapError
            If part of a pad was drawn; an alarm is kept.
        InputError
            If a key_ID has another grant.
        PeerUnavailableError
            If no heartbeat with the peer was accepted since this process started.
        StoreUnavailableError
            If the store doesn't answer; the keys may be burnt.
        """
        try:
            await self._keep(peer, delivery)
        except (RefusedError, InputError) as error:
            fields = {"peer": peer, "n_keys": len(delivery.keys), "reason": error.message}
            _logger.warning("grants refused", extra=fields)
            raise

    async def _keep(self, peer: KmeId, delivery: Delivery) -> None:
        ports = self._ports
        self._liveness.require_heard_once(peer)
        if ports.directory.home_of(delivery.master) != peer:
            raise RequestError("the master of granted keys does not live at the KME that grants")
        for slave in delivery.slaves:
            if not ports.directory.is_local(slave):
                raise RequestError("a slave of granted keys does not live at this KME")
        kept = await ports.store.grants(peer, [key.key_id for key in delivery.keys])
        grants: list[Grant] = []
        try:
            for key in delivery.keys:
                if _is_same(kept.get(key.key_id), delivery.proof_of(key)):
                    continue
                grants.append(await self._grant_of(peer, delivery, key))
            await ports.store.keep_grants(peer, grants)
        except OverlapError as error:
            await alarm_of_overlap(
                ports.store, peer, ports.clock.now_s(), f"grant of {delivery.master}", error
            )
            raise OverlapError(_NO_PAD) from error
        finally:
            for grant in grants:
                grant.key.wipe()

    async def _grant_of(self, peer: KmeId, delivery: Delivery, key: MaskedKey) -> Grant:
        """Check a pad and take it off."""
        pad_id = key.pad_id
        block = await self._ports.cache.block(peer, pad_id.block_number)
        if block is None or block.owner != peer:
            raise KeyNotFoundError(_NO_PAD)
        if not block.holds(pad_id.offset_granules, pad_id.n_granules):
            raise KeyNotFoundError(_NO_PAD)
        if not is_made_for(block.id_key, pad_scope(peer, self._ports.directory.local), pad_id):
            raise KeyNotFoundError(_NO_PAD)
        pad = block.key[pad_id.offset_bytes : pad_id.offset_bytes + pad_id.n_bytes]
        try:
            return Grant(
                key.key_id,
                delivery.master,
                delivery.slaves,
                unmasked(key, pad),
                delivery.proof_of(key),
                self._ports.clock.now_s() + block.lifetime_s,
                range_of(pad_id),
            )
        finally:
            pad.wipe()


def _is_same(kept: KeptGrant | None, proof: bytes) -> bool:
    return kept is not None and kept.proof == proof
