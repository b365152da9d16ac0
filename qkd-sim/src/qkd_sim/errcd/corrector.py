"""corrector - Bob's side of Cascade: asks for parities, finds his errors, corrects them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errcd.cascade import (
    MAX_PASSES,
    SMALLEST_BLOCK_BITS,
    Variant,
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
from qkd_sim.kernels.bits import pack_words, unpack_words
from qkd_sim.kernels.parity import (
    Pass,
    compare_halves,
    flip,
    gather,
    invert,
    mark_blocks,
    narrow,
    split,
    take_odd,
)

Ask = Callable[[Message], Message]
"""Puts a question to Alice and returns what she says."""


class Corrector:
    """Bob: finds and corrects his errors by asking.

    Parameters
    ----------
    key : (n,) ndarray of uint8
        His key, one bit per element; it is not changed.
    seed
        What all orders and subsets grow from; both know it.
    ask
        The way to Alice.

    Attributes
    ----------
    disclosed_bits
        How many parities he was told so far.
    n_rounds
        How many questions it took.
    """

    def __init__(self, key: NDArray[np.uint8], seed: bytes, ask: Ask) -> None:
        self._n_bits = key.size
        self._words = pack_words(key)
        self._received = self._words.copy()
        self._seed = seed
        self._ask_peer = ask
        self._passes: list[Pass] = []
        self._queues: list[list[NDArray[np.int64]]] = []
        self._total_parity = np.uint8(0)
        self._n_flipped = 0
        self.disclosed_bits = 0
        self.n_rounds = 0

    @property
    def key(self) -> NDArray[np.uint8]:
        """The key as corrected so far, (n,) bits in the order of the one received."""
        return unpack_words(self._words, self._n_bits)

    @property
    def corrected_bits(self) -> int:
        """In how many bits the key differs from the one received."""
        return int(np.bitwise_count(self._words ^ self._received).sum())

    def reconcile(self, qber: float, variant: Variant, check_bits: int) -> None:
        """Correct the key.

        Parameters
        ----------
        qber
            Expected error rate; a wrong one costs more questions, not errors.
        variant
            How large the blocks are.
        check_bits
            How many random subsets are compared at the end. An error pattern
            that the passes leave escapes each of them with probability 1/2.

        Raises
        ------
        ChannelError
            If an answer is none, or answers contradict each other.
        """
        block_bits = min(variant.first_block_bits(qber), max(self._n_bits, 2))
        for size in (block_bits, block_bits * variant.growth):
            self._open_pass(min(size, max(self._n_bits, 2)))
            self._settle()
        self._check(check_bits, block_bits)

    def _ask(self, question: Message, n_expected: int) -> NDArray[np.uint8]:
        reply = self._ask_peer(question)
        if not isinstance(reply, Parities):
            raise ChannelError(f"parities were due, not {type(reply).__name__}")
        if reply.bits.size != n_expected:
            raise ChannelError(f"{reply.bits.size} parities came, {n_expected} were asked for")
        self.disclosed_bits += n_expected
        self.n_rounds += 1
        return reply.bits

    def _open_pass(self, block_bits: int) -> None:
        number = len(self._passes)
        order = order_of_pass(self._n_bits, self._seed, number)
        place = np.empty_like(order)
        invert(order, place)
        words = np.zeros_like(self._words)
        gather(self._words, order, words)
        bitmaps = np.zeros((2, self._words.size + 1), np.uint64)
        state = Pass(words, order, place, bitmaps[0], bitmaps[1])
        ends = block_ends(self._n_bits, block_bits)
        question = PassRequest(number, block_bits)
        if number == 0:
            parities = self._ask(question, ends.size)
            self._total_parity = np.bitwise_xor.reduce(parities)
        else:
            told = self._ask(question, ends.size - 1)
            last = self._total_parity ^ np.bitwise_xor.reduce(told, initial=np.uint8(0))
            parities = np.append(told, last)
        odd = np.empty(ends.size, np.int64)
        n_odd = mark_blocks(state, ends, parities, odd)
        self._passes.append(state)
        self._queues.append([odd[:n_odd]])

    def _settle(self) -> None:
        """Bisect and correct until no known interval of any pass is odd."""
        while True:
            number = next((i for i, queue in enumerate(self._queues) if queue), None)
            if number is None:
                return
            self._correct(number, self._wave(number))

    def _wave(self, number: int) -> NDArray[np.int64]:
        """Bisect all odd intervals of a pass; return the places of the errors."""
        state = self._passes[number]
        queued = np.sort(np.concatenate(self._queues[number]))
        self._queues[number].clear()
        intervals = np.empty((queued.size, 2), np.int64)
        single = np.empty(queued.size, np.int64)
        n_intervals, n_single = take_odd(state, queued, intervals, single)
        found = self._bisect(number, state.words, intervals[:n_intervals], state.starts)
        return np.concatenate((single[:n_single], found))

    def _bisect(
        self,
        order: int,
        words: NDArray[np.uint64],
        intervals: NDArray[np.int64],
        starts: NDArray[np.uint64] | None,
    ) -> NDArray[np.int64]:
        """Bisect odd intervals in lockstep; return the places of their errors."""
        found = [np.empty(0, np.int64)]
        question: Message = WaveRequest(order, intervals.copy())
        while len(intervals):
            parities = self._ask(question, len(intervals))
            if starts is not None:
                split(starts, intervals)
            branches = np.empty(len(intervals), np.uint8)
            places = np.empty(len(intervals), np.int64)
            n_found = compare_halves(words, intervals, parities, branches, places)
            found.append(places[:n_found])
            intervals = intervals[: narrow(intervals, branches)]
            question = Branches(branches)
        return np.concatenate(found)

    def _correct(self, number: int, places: NDArray[np.int64]) -> None:
        """Flip the bits at these places of a pass (of the key itself, if it is -1)."""
        is_key_order = number < 0
        bits = places.astype(np.int32) if is_key_order else self._passes[number].order[places]
        self._n_flipped += bits.size
        if self._n_flipped > self._n_bits:
            raise ChannelError("the peer's parities contradict each other")
        np.bitwise_xor.at(self._words, bits >> 6, np.uint64(1) << (bits & 63).astype(np.uint64))
        queued = np.empty(bits.size, np.int64)
        for index, state in enumerate(self._passes):
            n_queued = flip(state, bits, index == number, queued)
            if n_queued:
                self._queues[index].append(queued[:n_queued].copy())

    def _check(self, check_bits: int, block_bits: int) -> None:
        """Compare random subsets; repair until all agree.

        One repair finds one error and what follows from it. When repairs have
        cost a quarter of what another pass would, a pass it is.
        """
        subsets = [subset_words(self._words.size, self._seed, i) for i in range(check_bits)]
        theirs = self._ask(CheckRequest(check_bits), check_bits)
        spent_bits = 0
        while True:
            own = subset_parities(self._words, self._n_bits, subsets)
            differing = np.flatnonzero(own != theirs)
            if not differing.size:
                return
            pass_bits = self._n_bits // block_bits
            if 4 * spent_bits > pass_bits and len(self._passes) < MAX_PASSES:
                self._open_pass(block_bits)
                block_bits = max(SMALLEST_BLOCK_BITS, block_bits // 4)
                spent_bits = 0
            else:
                before = self.disclosed_bits
                self._repair(int(differing[0]), subsets[differing[0]])
                spent_bits += self.disclosed_bits - before
            self._settle()

    def _repair(self, number: int, subset: NDArray[np.uint64]) -> None:
        whole = np.array([[0, self._n_bits]], np.int64)
        places = self._bisect(FIRST_SUBSET + number, self._words & subset, whole, None)
        self._correct(-1, places)
