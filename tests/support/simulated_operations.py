"""simulated_operations - what operators ask of two KMEs in one event loop, over links that lose."""

from collections.abc import Sequence
from functools import partial
from typing import cast

from kme.ids import KmeId, SaeId
from kme.pairing.operations import OperationPorts, Operations
from kme.pairing.ports import BlockTag, Comparison, OperatorHandler, PairStock, PeerHandler
from kme.registry.records import SaeList
from simulated_pair import SimulatedKme, SimulatedPair
from simulation import CrashingStore, LinkEnds, LinkFaults, LossyLink, StoreFaults


class LossyOperatorLink(LossyLink):
    """A `kme.pairing.ports.OperatorLink` in memory."""

    async def tell_saes(self, told: SaeList) -> None:
        await self._call(lambda peer: _asked(peer).on_saes(self.ends.local, told))

    async def stock(self, key_bytes: int) -> PairStock:
        return await self._call(lambda peer: _asked(peer).on_stock(self.ends.local, key_bytes))

    async def compare(self, tags: Sequence[BlockTag]) -> list[Comparison]:
        return await self._call(lambda peer: _asked(peer).on_compare(self.ends.local, tags))

    async def clear(self, highest: int) -> int:
        return await self._call(lambda peer: _asked(peer).on_clear(self.ends.local, highest))


def _asked(handler: PeerHandler) -> OperatorHandler:
    return cast("OperatorHandler", handler)


class Listener:
    """Takes note of SAEs in memory."""

    def __init__(self) -> None:
        self.heard: list[tuple[KmeId, SaeList]] = []
        self.disputed: tuple[SaeId, ...] = ()

    async def learn(self, peer: KmeId, told: SaeList) -> Sequence[SaeId]:
        self.heard.append((peer, told))
        return self.disputed


class OperatedPair:
    """A simulated pair with an operator at each end.

    Parameters
    ----------
    pair
        The two KMEs; their processes must have been started.
    faults
        Of the link that operators' questions take.
    """

    def __init__(self, pair: SimulatedPair, faults: LinkFaults | None = None) -> None:
        self.pair = pair
        self.faults = faults or LinkFaults()
        self.listeners = {kme.local: Listener() for kme in pair.both}
        self.heeded: list[tuple[KmeId, int, int]] = []
        self.links: dict[KmeId, LossyOperatorLink] = {}
        self._operations = {kme.local: self._operate(kme) for kme in pair.both}

    @property
    def alice(self) -> Operations:
        return self._operations[self.pair.alice.local]

    @property
    def bob(self) -> Operations:
        return self._operations[self.pair.bob.local]

    async def _look_at_floors(self, kme: SimulatedKme) -> None:
        """Note which floors those find who cut keys, when they are told to look."""
        record = await kme.store.pairing(kme.other.local)
        self.heeded.append((kme.local, record.floor_allocate, record.floor_draw))

    def _operate(self, kme: SimulatedKme) -> Operations:
        other = kme.other.local

        def handler() -> PeerHandler | None:
            return cast("PeerHandler", self._operations[other])

        ends = LinkEnds(kme.local, handler)
        link = LossyOperatorLink(ends, self.faults, self.pair.clock, self.pair.rng)
        self.links[kme.local] = link
        store = CrashingStore(kme.store, kme.fuse, StoreFaults(self.pair.pause))
        ports = OperationPorts(
            store,
            self.pair.clock,
            kme.pairing,
            kme.pairing,
            self.listeners[kme.local],
            partial(self._look_at_floors, kme),
        )
        return Operations(kme.local, ports, {other: link})
