"""saes - this KME's SAEs go to its peers: at the start, after every change, now and then."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol

from kme.clock import Clock, pause
from kme.errors import KmeError
from kme.ids import KmeId
from kme.pairing.ports import OperatorLink
from kme.registry.records import SaeList

_logger = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 10.0
"""How often to look for a change; one read each time."""

RETRY_INTERVAL_S: Final = 2.0
"""How often a peer is tried that was not told: until it is, its SAEs cannot draw our keys."""

TELL_INTERVAL_S: Final = 60.0
"""How often peers are told without a change, in case that one forgot."""


class SaeSource(Protocol):
    """Who knows this KME's SAEs (`kme.registry.saes.SaeRegistry`)."""

    async def told(self) -> SaeList:
        """Return what peers are told."""
        ...


class SaeTeller:
    """Tells every peer which SAEs live here; one process per KME runs it.

    Parameters
    ----------
    saes
        Who knows them.
    links
        The way to each peer.
    clock
        The time.
    """

    def __init__(self, saes: SaeSource, links: Mapping[KmeId, OperatorLink], clock: Clock) -> None:
        self._saes = saes
        self._links = links
        self._clock = clock
        self._told: dict[KmeId, tuple[SaeList, float]] = {}
        self._deaf: set[KmeId] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Tell peers until `stop`; what fails is tried again at the next look."""
        while not stop.is_set():
            try:
                await self.tell()
            except KmeError as error:
                _logger.warning("own SAEs not known", extra={"reason": error.message})
            await pause(stop, RETRY_INTERVAL_S if self._deaf else LOOK_INTERVAL_S)

    async def tell(self) -> None:
        """Tell those peers that don't know the present list, or heard it long ago.

        Raises
        ------
        KmeError
            If our own registry doesn't say.
        """
        current = await self._saes.told()
        due = [peer for peer in self._links if self._is_due(peer, current)]
        await asyncio.gather(*(self._tell(peer, current) for peer in due))

    def _is_due(self, peer: KmeId, current: SaeList) -> bool:
        last = self._told.get(peer)
        if last is None or last[0] != current:
            return True
        return self._clock.monotonic_s() - last[1] >= TELL_INTERVAL_S

    async def _tell(self, peer: KmeId, current: SaeList) -> None:
        try:
            await self._links[peer].tell_saes(current)
        except KmeError as error:
            if peer not in self._deaf:
                fields = {"peer": peer, "reason": error.message}
                _logger.warning("peer not told of SAEs, will be tried again", extra=fields)
            self._deaf.add(peer)
            return
        self._deaf.discard(peer)
        self._told[peer] = current, self._clock.monotonic_s()
        _logger.debug("peer told of SAEs", extra={"peer": peer, "n_saes": len(current.saes)})
