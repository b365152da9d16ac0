"""session - one block of sifted key through estimate, reconcile, verify and amplify.

Either party runs one of the two methods of `Session` with its own key and its
own end of the channel; nothing else connects them. Who speaks when stands in
`messages`. A block that yields no key ends in `BlockRefusedError` on both sides,
and the next one may follow; after a `ChannelError` the channel is of no more use.
"""

import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.ids import Epoch
from kme.secret import Secret
from qkd_sim.errcd.amplify import amplify
from qkd_sim.errcd.answerer import Answerer
from qkd_sim.errcd.assemble import SiftedBlock
from qkd_sim.errcd.cascade import VARIANTS
from qkd_sim.errcd.channel import Channel
from qkd_sim.errcd.conversation import Conversation
from qkd_sim.errcd.corrector import Corrector
from qkd_sim.errcd.entropy import binary_entropy
from qkd_sim.errcd.estimate import SampleEstimate, choose_sample
from qkd_sim.errcd.finitekey import best_sample_bits
from qkd_sim.errcd.messages import (
    MAX_BLOCK_BITS,
    AmplificationSeed,
    Branches,
    CheckRequest,
    Confirmation,
    Goodbye,
    KeyTag,
    Message,
    Offer,
    Parities,
    PassRequest,
    Plan,
    Reason,
    ReconcileDone,
    Refusal,
    SampleBits,
    Verdict,
    WaveRequest,
)
from qkd_sim.errcd.randomness import Randomness, draw_bits
from qkd_sim.errcd.result import BlockResult, FinishedBlock
from qkd_sim.errcd.terms import Conduct, Terms
from qkd_sim.errcd.verify import KeyHash
from qkd_sim.errors import BlockRefusedError, ChannelError, InputError

_SEED_BYTES: Final = 32
_QUESTIONS: Final = (PassRequest, WaveRequest, Branches, CheckRequest)
_PLANNED_EFFICIENCY: Final = 1.05

Load = Callable[[Epoch, int], SiftedBlock]
"""Reads one's own sifted key of a run of epochs: start and number."""


class _Work:
    """What one party has of a block while it is worked on."""

    def __init__(self, block: SiftedBlock, terms: Terms, offer: Offer) -> None:
        self.block = block
        self.terms = terms
        self.seconds: dict[str, float] = {}
        is_sample = choose_sample(block.bits.size, offer.sample_bits, offer.sample_seed)
        self.own_sample = block.bits[is_sample]
        self.key = block.bits[~is_sample]
        self.sample: SampleEstimate | None = None
        self.disclosed_bits = 0
        self.corrected_bits = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; a refusal in it says what is known of the block."""
        start = time.perf_counter()
        try:
            yield
        except BlockRefusedError as error:
            raise BlockRefusedError(
                error.message,
                start_epoch=self.block.start_epoch,
                n_epochs=self.block.n_epochs,
                sifted_bits=self.block.bits.size,
                qber=self.sample.qber if self.sample else None,
            ) from error
        finally:
            self.seconds[name] = time.perf_counter() - start

    def compare(self, theirs: SampleBits) -> SampleEstimate:
        """Count the errors in the sample."""
        if theirs.bits.size != self.own_sample.size:
            raise ChannelError(
                f"the peer's sample has {theirs.bits.size} bits, not {self.own_sample.size}"
            )
        errors = int(np.count_nonzero(theirs.bits != self.own_sample))
        self.sample = SampleEstimate(self.own_sample.size, errors)
        return self.sample

    def objection(self, sample: SampleEstimate) -> Reason | None:
        """Why there is no point in going on after the sample, or None."""
        if self.terms.is_refused(sample):
            return Reason.TOO_MANY_ERRORS
        fewest_parities = int(self.key.size * binary_entropy(sample.qber))
        if not self.terms.final_bits(self.key.size, sample, fewest_parities):
            return Reason.TOO_SHORT
        return None

    def final_bits(self) -> int:
        """Return how long the final key may be, now that all leaks are counted."""
        assert self.sample is not None
        return self.terms.final_bits(self.key.size, self.sample, self.disclosed_bits)

    def finish(self, final: NDArray[np.uint8]) -> FinishedBlock:
        """Bring the results together."""
        assert self.sample is not None
        result = BlockResult(
            start_epoch=self.block.start_epoch,
            n_epochs=self.block.n_epochs,
            sifted_bits=self.block.bits.size,
            sample=self.sample,
            corrected_bits=self.corrected_bits,
            disclosed_bits=self.disclosed_bits,
            verification_bits=self.terms.tag_bits,
            final_bits=final.size,
            seconds=self.seconds,
        )
        return FinishedBlock(result, Secret(np.packbits(final).tobytes()))


class Session:
    """One party's side of the protocol, block after block.

    Parameters
    ----------
    channel
        This party's end of the classical channel.
    randomness
        Where seeds come from.
    terms
        What both parties agreed on beforehand.
    conduct
        What this party chooses for itself.
    """

    def __init__(
        self,
        channel: Channel,
        randomness: Randomness,
        terms: Terms | None = None,
        conduct: Conduct | None = None,
    ) -> None:
        self._talk = Conversation(channel)
        self._randomness = randomness
        self._terms = terms or Terms()
        self._conduct = conduct or Conduct()

    def offer(self, block: SiftedBlock) -> FinishedBlock:
        """Make a final key of a block as Alice, whose key is the reference.

        Raises
        ------
        BlockRefusedError
            If the block yields no key.
        ChannelError
            If the channel breaks off or the peer breaks the protocol.
        """
        if not 1 < block.bits.size <= MAX_BLOCK_BITS:
            raise BlockRefusedError(
                f"a block of {block.bits.size} bits; 2 to {MAX_BLOCK_BITS} can be worked on",
                start_epoch=block.start_epoch,
                n_epochs=block.n_epochs,
                sifted_bits=block.bits.size,
            )
        offer = self._make_offer(block)
        self._talk.say(offer)
        work = _Work(block, self._terms, offer)
        with work.step("estimate"):
            sample = work.compare(self._talk.hear(SampleBits))
            self._talk.say(SampleBits(work.own_sample))
            if (reason := work.objection(sample)) is not None:
                self._talk.refuse(reason)
        with work.step("reconcile"):
            self._answer(work)
        with work.step("verify"):
            final_bits = self._prove(work)
        with work.step("amplify"):
            seed = draw_bits(self._randomness, work.key.size + final_bits - 1)
            self._talk.say(AmplificationSeed(seed))
            final = amplify(work.key, seed, final_bits)
            if self._talk.hear(Confirmation).final_bits != final_bits:
                raise ChannelError("the peer made a final key of another length")
        return work.finish(final)

    def accept(self, load: Load) -> FinishedBlock | None:
        """Make a final key of the next block that Alice offers, as Bob, who corrects.

        Parameters
        ----------
        load
            Reads Bob's sifted key.

        Returns
        -------
        FinishedBlock or None
            None if Alice has no more blocks.

        Raises
        ------
        BlockRefusedError
            If the block yields no key.
        ChannelError
            If the channel breaks off or the peer breaks the protocol.
        InputError
            If `load` raises it; Alice is told that there is no raw key.
        """
        offer = self._talk.hear(Offer, Goodbye)
        if isinstance(offer, Goodbye):
            return None
        work = self._begin(offer, load)
        with work.step("estimate"):
            self._talk.say(SampleBits(work.own_sample))
            sample = work.compare(self._talk.hear(SampleBits))
            plan = self._talk.hear(Plan)
            if (reason := work.objection(sample)) is not None:
                self._talk.refuse(reason)
        with work.step("reconcile"):
            self._correct(work, plan, sample)
        with work.step("verify"):
            self._verify(work)
        with work.step("amplify"):
            final_bits = work.final_bits()
            seed = self._talk.hear(AmplificationSeed).bits
            if not final_bits or seed.size != work.key.size + final_bits - 1:
                raise ChannelError("the peer asks for a final key of another length")
            final = amplify(work.key, seed, final_bits)
            self._talk.say(Confirmation(final_bits))
        return work.finish(final)

    def say_goodbye(self) -> None:
        """Tell the peer that there are no more blocks."""
        self._talk.say(Goodbye())

    def _make_offer(self, block: SiftedBlock) -> Offer:
        qber = self._terms.preset_qber or self._conduct.expected_qber
        sample_bits = best_sample_bits(
            block.bits.size, qber, _PLANNED_EFFICIENCY, self._terms.epsilons
        )
        return Offer(
            block.start_epoch.number,
            block.n_epochs,
            block.bits.size,
            sample_bits,
            self._randomness.draw(_SEED_BYTES),
            self._terms.digest(),
        )

    def _begin(self, offer: Offer, load: Load) -> _Work:
        """Find Bob's half of the block offered, or refuse."""
        try:
            block = load(Epoch(offer.start_epoch), offer.n_epochs)
        except InputError:
            self._talk.say(Refusal(Reason.NO_RAW_KEY))
            raise
        if offer.terms != self._terms.digest():
            self._talk.refuse(Reason.OTHER_TERMS)
        if block.bits.size != offer.n_bits:
            self._talk.refuse(Reason.OTHER_LENGTH)
        return _Work(block, self._terms, offer)

    def _answer(self, work: _Work) -> None:
        """Answer Bob's questions until he is done."""
        plan = Plan(self._randomness.draw(_SEED_BYTES))
        self._talk.say(plan)
        alice = Answerer(work.key, plan.seed)
        while not isinstance(said := self._talk.hear(*_QUESTIONS, ReconcileDone), ReconcileDone):
            self._talk.say(alice.answer(said))
        work.disclosed_bits = alice.disclosed_bits
        if said.disclosed_bits != alice.disclosed_bits:
            raise ChannelError(
                f"the peer counts {said.disclosed_bits} parities, {alice.disclosed_bits} were told"
            )
        if said.corrected_bits > work.key.size:
            raise ChannelError("the peer corrected more bits than the key has")
        work.corrected_bits = said.corrected_bits

    def _correct(self, work: _Work, plan: Plan, sample: SampleEstimate) -> None:
        """Ask until Bob's key is Alice's."""

        def ask(question: Message) -> Parities:
            self._talk.say(question)
            return self._talk.hear(Parities)

        bob = Corrector(work.key, plan.seed, ask)
        qber = self._conduct.block_qber or sample.planning_qber
        bob.reconcile(qber, VARIANTS[self._conduct.variant], self._conduct.check_bits)
        work.key = bob.key
        work.disclosed_bits = bob.disclosed_bits
        work.corrected_bits = bob.corrected_bits
        self._talk.say(ReconcileDone(bob.disclosed_bits, bob.corrected_bits))

    def _prove(self, work: _Work) -> int:
        """Have Bob compare his key's hash; return the length of the final key."""
        final_bits = work.final_bits()
        if not final_bits:
            self._talk.refuse(Reason.TOO_SHORT)
        key_hash = KeyHash.draw(self._randomness)
        self._talk.say(KeyTag(key_hash.pack(), key_hash.tag(work.key, self._terms.tag_bits)))
        if not self._talk.hear(Verdict).is_equal:
            raise BlockRefusedError(Reason.KEYS_DIFFER.text)
        return final_bits

    def _verify(self, work: _Work) -> None:
        """Compare the hash of Alice's key with that of Bob's."""
        said = self._talk.hear(KeyTag)
        own = KeyHash.parse(said.seed).tag(work.key, self._terms.tag_bits)
        is_equal = hmac.compare_digest(own, said.tag)
        self._talk.say(Verdict(is_equal))
        if not is_equal:
            raise BlockRefusedError(Reason.KEYS_DIFFER.text)
