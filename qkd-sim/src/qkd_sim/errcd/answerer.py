"""answerer - Alice's side of Cascade: questions come in, parities of her key go out, counted."""

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errcd.cascade import (
    MAX_PASSES,
    MAX_SUBSETS,
    SMALLEST_BLOCK_BITS,
    block_ends,
    order_of_pass,
    subset_parities,
    subset_words,
)
from qkd_sim.errcd.messages import (
    FIRST_SUBSET,
    Branches,
    CheckRequest,
    Message,
    Parities,
    PassRequest,
    WaveRequest,
)
from qkd_sim.errors import ChannelError
from qkd_sim.kernels.bits import pack_words
from qkd_sim.kernels.parity import block_parities, gather, lower_parities, narrow


class Answerer:
    """Alice: answers questions about parities of her key and counts the answers.

    Parameters
    ----------
    key : (n,) ndarray of uint8
        Her key, one bit per element.
    seed
        What all orders and subsets grow from; both know it.

    Attributes
    ----------
    disclosed_bits
        How many parities were answered so far.
    """

    def __init__(self, key: NDArray[np.uint8], seed: bytes) -> None:
        self._n_bits = key.size
        self._words = pack_words(key)
        self._seed = seed
        self._passes: list[NDArray[np.uint64]] = []
        self._n_subsets = 0
        self._searched = self._words
        self._intervals = np.empty((0, 2), np.int64)
        self.disclosed_bits = 0

    def answer(self, question: Message) -> Parities:
        """Answer one question.

        Raises
        ------
        ChannelError
            If the question is none, names what doesn't exist, or if more has
            been asked than any honest party needs.
        """
        match question:
            case PassRequest():
                parities = self._start_pass(question)
            case WaveRequest():
                parities = self._start_wave(question)
            case Branches():
                parities = self._follow(question)
            case CheckRequest():
                parities = self._check(question)
            case _:
                raise ChannelError(f"{type(question).__name__} is no question about parities")
        self.disclosed_bits += parities.size
        if self.disclosed_bits > 4 * self._n_bits + 1024:
            raise ChannelError("the peer asks for more parities than the key has bits")
        return Parities(parities)

    def _start_pass(self, question: PassRequest) -> NDArray[np.uint8]:
        number = len(self._passes)
        if question.order != number or number >= MAX_PASSES:
            raise ChannelError(f"pass {question.order} asked for, pass {number} is next")
        if not SMALLEST_BLOCK_BITS <= question.block_bits <= max(self._n_bits, 2):
            raise ChannelError(f"blocks of {question.block_bits} bits asked for")
        words = np.zeros_like(self._words)
        gather(self._words, order_of_pass(self._n_bits, self._seed, number), words)
        self._passes.append(words)
        ends = block_ends(self._n_bits, question.block_bits)
        parities = np.empty(ends.size, np.uint8)
        block_parities(words, ends, parities)
        # the parity of the whole key is known from the first pass, so the last block's follows
        return parities if number == 0 else parities[:-1]

    def _start_wave(self, question: WaveRequest) -> NDArray[np.uint8]:
        subset = question.order - FIRST_SUBSET
        if 0 <= question.order < len(self._passes):
            self._searched = self._passes[question.order]
        elif 0 <= subset < self._n_subsets:
            self._searched = self._words & subset_words(self._words.size, self._seed, subset)
        else:
            raise ChannelError(f"order {question.order} does not exist")
        if question.intervals[-1, 1] > self._n_bits:
            raise ChannelError(f"an interval ends behind bit {self._n_bits}")
        self._intervals = question.intervals.copy()
        return self._lower_parities()

    def _follow(self, question: Branches) -> NDArray[np.uint8]:
        if question.bits.size != len(self._intervals):
            raise ChannelError(
                f"{question.bits.size} branches for {len(self._intervals)} intervals"
            )
        kept = narrow(self._intervals, question.bits)
        if not kept:
            raise ChannelError("no interval is left to bisect")
        self._intervals = self._intervals[:kept]
        return self._lower_parities()

    def _lower_parities(self) -> NDArray[np.uint8]:
        parities = np.empty(len(self._intervals), np.uint8)
        lower_parities(self._searched, self._intervals, parities)
        return parities

    def _check(self, question: CheckRequest) -> NDArray[np.uint8]:
        first = self._n_subsets
        self._n_subsets += question.n_subsets
        if question.n_subsets < 1 or self._n_subsets > MAX_SUBSETS:
            raise ChannelError(f"{self._n_subsets} random subsets asked for")
        return subset_parities(
            self._words,
            self._n_bits,
            [
                subset_words(self._words.size, self._seed, number)
                for number in range(first, self._n_subsets)
            ],
        )
