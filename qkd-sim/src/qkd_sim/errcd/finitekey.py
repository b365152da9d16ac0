"""finitekey - how many bits of a reconciled key are secret, for blocks of finite length.

Security against coherent attacks by an entropic uncertainty relation and
leftover hashing [1]_ [2]_: of ``n`` reconciled bits, beside which ``k`` randomly
chosen ones showed ``x`` errors,

``l = floor(n (1 - h(t / n)) - leak - tag - 2 log2(1 / (2 eps_pa)))``

are secret but for the probability ``eps_cor + 2 eps_pe + eps_pa``, where ``t``
is the largest number of errors in the ``n`` bits that shows ``x`` or fewer in
the sample with a probability above ``eps_pe ** 2`` (exact hypergeometric tail).

What the formula takes for granted: both detections are measurements of a qubit
(multiple clicks assigned at random), no efficiency depends on the basis, the
classical channel is authenticated, and reconciliation tells an eavesdropper no
more than the parities counted (module `cascade`). Proven is it for an error
rate fixed beforehand; `Terms.preset_qber` fixes one. Without, the length follows
the error rate observed, for which a proof of variable length [3]_ is needed.

References
----------
.. [1] M. Tomamichel et al., "Tight finite-key analysis for quantum
   cryptography", Nat. Commun. 3, 634 (2012).
.. [2] C. Lim et al., "Security analysis of quantum key distribution with small
   block length", PRL 126, 100501 (2021), arXiv:2009.04882.
.. [3] D. Tupkary et al., "Phase error rate estimation in QKD with imperfect
   detectors", 2024, arXiv:2408.17349.
"""

import functools
import math
from dataclasses import dataclass

from qkd_sim.errcd.entropy import binary_entropy
from qkd_sim.errcd.estimate import SampleEstimate, most_key_errors


@dataclass(frozen=True)
class Epsilons:
    """With which probabilities a final key may fail to be what it should be.

    Parameters
    ----------
    correctness
        The keys of both sides differ unnoticed.
    estimation
        ``eps_pe``: the sample misleads; enters twice.
    amplification
        ``eps_pa``: distance from uniform that hashing leaves.
    """

    correctness: float = 1e-15
    estimation: float = 4.5e-11
    amplification: float = 1e-11

    @property
    def secrecy(self) -> float:
        """Distance of the key from one that is uniform and unknown."""
        return 2 * self.estimation + self.amplification

    @property
    def total(self) -> float:
        """Distance of the protocol from a perfect one, authentication aside."""
        return self.correctness + self.secrecy


def secure_length(key_bits: int, sample: SampleEstimate, leak_bits: int, epsilons: Epsilons) -> int:
    """Return how long the final key may be.

    Parameters
    ----------
    key_bits
        Length of the reconciled key.
    sample
        Errors among bits that were chosen at random, disclosed and discarded.
    leak_bits
        Bits about the key said on the channel: all parities, and the tag.
    epsilons
        Accepted probabilities of failure.

    Returns
    -------
    int
        Bits, 0 if there is nothing secret.
    """
    errors = most_key_errors(key_bits, sample, 2 * math.log(epsilons.estimation))
    if errors is None or 2 * errors >= key_bits:
        return 0
    entropy_bits = key_bits * (1 - binary_entropy(errors / key_bits))
    hashing_bits = 2 * math.log2(1 / (2 * epsilons.amplification))
    return max(0, math.floor(entropy_bits - leak_bits - hashing_bits))


_SHARES = tuple(0.005 * (0.6 / 0.005) ** (step / 27) for step in range(28))


@functools.lru_cache(maxsize=64)
def best_sample_bits(
    n_bits: int, expected_qber: float, expected_efficiency: float, epsilons: Epsilons
) -> int:
    """Return how many bits to sacrifice so that the final key gets longest.

    Parameters
    ----------
    n_bits
        Length of the sifted key, at least 2.
    expected_qber
        Error rate to plan for; the actual one is not known yet.
    expected_efficiency
        Bits that reconciliation will disclose, over the Shannon limit.
    epsilons
        Accepted probabilities of failure.

    Returns
    -------
    int
        In ``1 .. n_bits - 1``; half of the bits if no choice gives a key.
    """

    def final_bits(sample_bits: int) -> int:
        key_bits = n_bits - sample_bits
        sample = SampleEstimate(sample_bits, round(sample_bits * expected_qber))
        leak = math.ceil(expected_efficiency * key_bits * binary_entropy(expected_qber))
        return secure_length(key_bits, sample, leak, epsilons)

    choices = sorted({min(n_bits - 1, max(1, round(n_bits * share))) for share in _SHARES})
    best = max(choices, key=final_bits)
    return best if final_bits(best) else max(1, n_bits // 2)
