"""cascade - reconciliation: Bob's key becomes Alice's by asking for parities of it.

Bob works in lockstep: of the lowest pass that has any, he takes all odd
intervals, bisects them together (one message asks for all of them), corrects,
lets the corrections make intervals of other passes odd, and repeats. A block of
sifted key is one frame, so one message serves all of it. At the end parities of
random subsets tell whether errors are left; one that differs is bisected too.

Alice only answers. Every parity that she answers is counted, one by one, by
both; nothing else that she says depends on her key. Bob's questions do reveal
where his errors were; that this costs nothing beyond the parities is the usual
assumption, see [3]_.

References
----------
.. [1] G. Brassard, L. Salvail, "Secret-key reconciliation by public
   discussion", EUROCRYPT '93.
.. [2] J. Martinez-Mateo et al., "Demystifying the information reconciliation
   protocol Cascade", 2014, arXiv:1407.3257.
.. [3] D. Tupkary, N. Luetkenhaus, "Using Cascade in quantum key distribution",
   2023, arXiv:2307.00576.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errcd.randomness import subseed
from qkd_sim.kernels.bits import fill_random, shuffle
from qkd_sim.kernels.parity import interval_parity

MAX_PASSES: Final = 12
"""Bob asks for no more passes; two are the rule."""

MAX_SUBSETS: Final = 128 - 1
"""Bob asks for no more random subsets."""

SMALLEST_BLOCK_BITS: Final = 2


@dataclass(frozen=True)
class Variant:
    """How large the blocks of the passes are; how they are searched is the same for all.

    Parameters
    ----------
    name
        As in the literature or in the options of errcd.
    rounding
        The first pass has blocks of ``2 ** floor(log2(1 / qber) + rounding)`` bits.
    growth
        How many times larger the blocks of the second pass are.
    """

    name: str
    rounding: float
    growth: int

    def first_block_bits(self, qber: float) -> int:
        """Return the block size of the first pass for an expected error rate."""
        exponent = math.floor(math.log2(1 / min(max(qber, 1e-7), 0.5)) + self.rounding)
        return max(SMALLEST_BLOCK_BITS, 1 << exponent)


VARIANTS: Final = {
    row.name: row
    for row in (
        Variant("fast", rounding=0.2, growth=4),
        Variant("plain", rounding=0.95, growth=4),
    )
}
"""`fast` discloses 4 to 8 % more than the Shannon limit; `plain` 3 to 7 %, in more rounds."""


def block_ends(n_bits: int, block_bits: int) -> NDArray[np.int64]:
    """Return where each block of a pass ends; the last one may be shorter."""
    ends = np.arange(block_bits, n_bits + block_bits, block_bits, dtype=np.int64)
    ends[-1] = n_bits
    return ends


def order_of_pass(n_bits: int, seed: bytes, number: int) -> NDArray[np.int32]:
    """Return the order of a pass: which bit of the key stands at each place."""
    order = np.empty(n_bits, np.int32)
    shuffle(order, subseed(seed, "pass", number))
    return order


def subset_words(n_words: int, seed: bytes, number: int) -> NDArray[np.uint64]:
    """Return a random subset of the key as a bitmap."""
    words = np.empty(n_words, np.uint64)
    fill_random(words, subseed(seed, "subset", number))
    return words


def subset_parities(
    words: NDArray[np.uint64], n_bits: int, subsets: list[NDArray[np.uint64]]
) -> NDArray[np.uint8]:
    """Return the parity of the key over each subset, (s,) bits."""
    return np.array([interval_parity(words & subset, 0, n_bits) for subset in subsets], np.uint8)
