"""three_kmes - three KMEs in memory, each with links to the others, for keys of several slaves."""

import random
from functools import partial
from itertools import permutations

from grant_links import DirectGrants
from kme.ids import Epoch, KmeId, SaeId
from kme.secret import Secret
from kme.store.memory import MemoryStore
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from kme.supply.cache import BlockCache
from kme.supply.directory import SaeDirectory
from kme.supply.draw import DrawPorts
from kme.supply.grantee import Grantee
from kme.supply.supply import LinkSupply, SupplyLimits
from simulation import VirtualClock
from supply_pair import ALICE, BOB, CAROL, EVE, SOURCE, A, B, SimulatedLiveness, StoreScript

C = KmeId("kme-c")
DAVE, FRANK = SaeId("dave"), SaeId("frank")
HOMES = {ALICE: A, CAROL: A, BOB: B, EVE: B, DAVE: C, FRANK: C}
LIFETIME_S = 3600
LIMITS = SupplyLimits(local_lifetime_s=LIFETIME_S)


class ThreeKmes:
    """KMEs `A`, `B` and `C`, every two of which share a link.

    Parameters
    ----------
    limits
        What each of them keeps in memory and may make.
    """

    def __init__(self, limits: SupplyLimits = LIMITS) -> None:
        self.clock = VirtualClock()
        self.limits = limits
        self.scripts = {kme: StoreScript() for kme in (A, B, C)}
        self.stores = {kme: MemoryStore(kme, self.scripts[kme]) for kme in (A, B, C)}
        self.liveness = {kme: SimulatedLiveness() for kme in (A, B, C)}
        self.grantees: dict[KmeId, Grantee] = {}
        self.links = {
            (mine, theirs): DirectGrants(mine, partial(self.grantees.get, theirs))
            for mine, theirs in permutations((A, B, C), 2)
        }
        self.supplies = {kme: self.start(kme, "worker-1") for kme in (A, B, C)}
        self.grantees |= {kme: self._grantee(kme) for kme in (A, B, C)}
        self._rng = random.Random(3)
        self._number = 0

    def directory(self, kme: KmeId) -> SaeDirectory:
        """Return the directory as a KME sees it."""
        peers = tuple(other for other in (A, B, C) if other != kme)
        return SaeDirectory(kme, peers, HOMES.items())

    def start(self, kme: KmeId, worker: str) -> LinkSupply:
        """Return a new process's supply over what is stored."""
        links = {theirs: link for (mine, theirs), link in self.links.items() if mine == kme}
        return LinkSupply(
            self.directory(kme),
            self.stores[kme],
            self.liveness[kme],
            self.clock,
            worker,
            self.limits,
            links=links,
        )

    def restart(self, kme: KmeId) -> None:
        """Let a KME die, and begin anew with what its store has."""
        self.stores[kme] = self.stores[kme].reopened()
        self.supplies[kme] = self.start(kme, "worker-2")
        self.grantees[kme] = self._grantee(kme)

    def _grantee(self, kme: KmeId) -> Grantee:
        store = self.stores[kme]
        ports = DrawPorts(self.directory(kme), store, BlockCache(store), self.clock)
        return Grantee(ports, self.liveness[kme])

    async def open(self, n_bytes: int = 4096) -> None:
        """Give each KME a block of its own with each other, and open all supplies."""
        for owner, other in permutations((A, B, C), 2):
            await self.add(owner, other, n_bytes)
        for supply in self.supplies.values():
            await supply.open()

    async def add(self, owner: KmeId, other: KmeId, n_bytes: int) -> int:
        """Put equal blocks into two stores, as pairing would; return the number."""
        self._number += 1
        key = self._rng.randbytes(n_bytes)
        entry = FinalKeyRef(SOURCE, Epoch(self._number))
        proposal = Proposal(self._number, owner, (entry,), LIFETIME_S, SourceClass.QKD, bytes(16))
        for kme, peer in ((owner, other), (other, owner)):
            store = self.stores[kme]
            await store.settle(peer, Settlement(proposal, Verdict.EQUAL), Secret(key))
            await store.raise_peer_settled(peer, self._number)
        return self._number
