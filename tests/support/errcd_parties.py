"""errcd_parties - keys with errors, two parties in two threads, and what went over the wire."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kme.errors import KmeError
from qkd_sim.errcd.answerer import Answerer
from qkd_sim.errcd.cascade import VARIANTS
from qkd_sim.errcd.channel import Channel
from qkd_sim.errcd.corrector import Corrector
from qkd_sim.errcd.entropy import binary_entropy
from qkd_sim.errcd.messages import Message, unpack

Bits = NDArray[np.uint8]

First = TypeVar("First")
Second = TypeVar("Second")


def random_bits(rng: np.random.Generator, n_bits: int) -> Bits:
    return rng.integers(0, 2, n_bits, dtype=np.uint8)


def noisy_pair(rng: np.random.Generator, n_bits: int, qber: float) -> tuple[Bits, Bits]:
    """Return a key, and the same with independent errors."""
    key = random_bits(rng, n_bits)
    return key, key ^ (rng.random(n_bits) < qber).astype(np.uint8)


@dataclass
class Wire:
    """A channel that keeps what it carries."""

    channel: Channel
    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self.channel.send(message)

    def receive(self) -> bytes:
        message = self.channel.receive()
        self.received.append(message)
        return message


@dataclass
class Outcome(Generic[First, Second]):
    """What two parties came to; a KmeError counts as an outcome."""

    alice: First | KmeError | None = None
    bob: Second | KmeError | None = None


def run_both(alice: Callable[[], First], bob: Callable[[], Second]) -> Outcome[First, Second]:
    """Run two parties at the same time; any error but a KmeError fails the test."""
    outcome: Outcome[First, Second] = Outcome()
    unexpected: list[BaseException] = []

    def run_alice() -> None:
        try:
            outcome.alice = alice()
        except KmeError as error:
            outcome.alice = error
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            unexpected.append(error)

    thread = threading.Thread(target=run_alice, daemon=True)
    thread.start()
    try:
        outcome.bob = bob()
    except KmeError as error:
        outcome.bob = error
    thread.join(60)
    assert not thread.is_alive()
    if unexpected:
        raise unexpected[0]
    return outcome


@dataclass(frozen=True)
class Reconciliation:
    """What one run of Cascade came to."""

    is_equal: bool
    n_bits: int
    errors: int
    disclosed_bits: int
    n_rounds: int

    @property
    def efficiency(self) -> float:
        return self.disclosed_bits / (self.n_bits * binary_entropy(self.errors / self.n_bits))


def reconcile(
    alice: Bits, bob: Bits, seed: bytes, *, qber: float, variant: str = "plain"
) -> Reconciliation:
    """Run Cascade; between the two there are only packed messages."""
    answerer = Answerer(alice, seed)

    def ask(question: Message) -> Message:
        return unpack(answerer.answer(unpack(question.pack())).pack())

    corrector = Corrector(bob, seed, ask)
    corrector.reconcile(qber, VARIANTS[variant], check_bits=20)
    errors = int(np.count_nonzero(alice != bob))
    is_equal = bool(np.array_equal(corrector.key, alice))
    assert answerer.disclosed_bits == corrector.disclosed_bits
    assert not is_equal or corrector.corrected_bits == errors
    return Reconciliation(
        is_equal, alice.size, errors, corrector.disclosed_bits, corrector.n_rounds
    )
