"""grant_links - ways in memory by which one KME hands keys for further slaves to another."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from kme.errors import KmeError, PeerUnavailableError
from kme.ids import KmeId
from kme.supply.grants import Delivery, GrantHandler
from simulation import SimulatedCrash


@dataclass
class DirectGrants:
    """A `kme.supply.grants.GrantLink` that writes down what it carried.

    Parameters
    ----------
    local
        The sender.
    handler
        Returns what the receiver does with it; None if it is down.
    refuses
        Raised instead of delivering.
    loses_answer
        Whether the receiver's answer gets lost.
    saw
        Is told of all that is sent.
    """

    local: KmeId
    handler: Callable[[], GrantHandler | None]
    refuses: KmeError | None = None
    loses_answer: bool = False
    saw: Callable[[Delivery], None] = lambda _: None
    carried: list[Delivery] = field(default_factory=list)

    async def deliver(self, delivery: Delivery) -> None:
        self.carried.append(delivery)
        self.saw(delivery)
        handler = self.handler()
        if handler is None:
            raise PeerUnavailableError("nobody answers")
        if self.refuses is not None:
            raise self.refuses
        try:
            await handler.on_delivery(self.local, delivery)
        except (KmeError, SimulatedCrash) as error:
            raise PeerUnavailableError(f"did not answer: {error!r}") from None
        if self.loses_answer:
            raise PeerUnavailableError("the answer was lost")


@dataclass
class LossyGrants:
    """The same, with a sender that may die and messages that are lost, late or come twice.

    Parameters
    ----------
    way
        What carries them.
    step
        Called before and after; raises if the sender is dead.
    pause
        Takes a moment.
    rng
        Where the dice come from.
    lost
        Probability that a message, or the answer to it, is lost.
    """

    way: DirectGrants
    step: Callable[[], None]
    pause: Callable[[], Awaitable[None]]
    rng: random.Random
    lost: Callable[[], float]

    async def deliver(self, delivery: Delivery) -> None:
        self.step()
        await self.pause()
        if self.rng.random() < self.lost():
            raise PeerUnavailableError("lost on the way")
        await self.way.deliver(delivery)
        if self.rng.random() < self.lost():
            await self.pause()
            await self.way.deliver(delivery)
        await self.pause()
        self.step()
        if self.rng.random() < self.lost():
            raise PeerUnavailableError("the answer was lost")
