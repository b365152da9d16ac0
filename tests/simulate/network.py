"""network - a link that loses, doubles and delays, as in all simulations here, and counts it."""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kme.errors import PeerUnavailableError
from kme.pairing.ports import Heartbeat, HeartbeatAnswer, PeerHandler
from kme.store.records import Proposal, Verdict
from simulate.trace import Trace
from simulation import LinkEnds, LinkFaults, LossyLink, VirtualClock

T = TypeVar("T")


class CountingLink(LossyLink):
    """A lossy link whose messages stand in the trace.

    Parameters
    ----------
    ends, faults, clock, rng
        As of `LossyLink`.
    trace
        Where messages are noted.
    """

    def __init__(
        self,
        ends: LinkEnds,
        faults: LinkFaults,
        clock: VirtualClock,
        rng: random.Random,
        trace: Trace,
    ) -> None:
        super().__init__(ends, faults, clock, rng)
        self._trace = trace

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        answer = await super().heartbeat(heartbeat)
        if answer.outcome != "accepted":
            self._trace.note(self.ends.local, f"heartbeat {answer.outcome}")
        return answer

    async def propose(self, proposal: Proposal) -> Verdict:
        self._trace.note(self.ends.local, f"proposes block {proposal.number} of {proposal.owner}")
        verdict = await super().propose(proposal)
        self._trace.note(self.ends.local, f"hears that block {proposal.number} is {verdict}")
        return verdict

    async def _deliver(self, send: Callable[[PeerHandler], Awaitable[T]]) -> T:
        self._trace.count("messages")
        try:
            return await super()._deliver(send)
        except PeerUnavailableError:
            self._trace.count("messages lost")
            raise
