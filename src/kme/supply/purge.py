"""purge - what nobody needs any more in, nothing out: grants that are due, claims held for long."""

import logging
from typing import Final

from kme.clock import Clock
from kme.errors import KmeError
from kme.store.ports import GrantStore
from kme.supply.supply import LinkSupply

_logger = logging.getLogger(__name__)

PURGE_LIMIT: Final = 1024
"""One call to the store is about so many grants at most."""

PURGE_PAUSE_S: Final = 60.0
"""Nobody can take a grant whose time is over: its bytes may wait a little."""

_BUSY_PAUSE_S: Final = 1.0


async def keep_purging(store: GrantStore, clock: Clock) -> None:
    """Forget grants whose time is over, until cancelled; one process of a KME does it.

    Parameters
    ----------
    store
        Where they are kept.
    clock
        The time.
    """
    while True:
        n_purged = 0
        try:
            n_purged = await store.purge_grants(clock.now_s(), PURGE_LIMIT)
        except KmeError as error:
            _logger.warning("grants not purged", extra={"reason": error.message})
        if n_purged:
            _logger.info("grants expired", extra={"n_grants": n_purged})
        await clock.sleep(_BUSY_PAUSE_S if n_purged == PURGE_LIMIT else PURGE_PAUSE_S)


async def keep_releasing(supply: LinkSupply, clock: Clock) -> None:
    """Give back what was claimed long ago, until cancelled; every process that cuts keys does it.

    Parameters
    ----------
    supply
        Whose claims.
    clock
        The time.
    """
    while True:
        await clock.sleep(PURGE_PAUSE_S)
        try:
            await supply.release_old_claims()
        except KmeError as error:
            _logger.warning("old claims not given back", extra={"reason": error.message})
