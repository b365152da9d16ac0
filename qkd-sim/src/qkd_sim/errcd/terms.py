"""terms - what both parties agree on before any block, and what each chooses for itself."""

import hashlib
import math
from dataclasses import astuple, dataclass, field

from qkd_sim.errcd.cascade import MAX_SUBSETS, VARIANTS
from qkd_sim.errcd.estimate import SampleEstimate
from qkd_sim.errcd.finitekey import Epsilons, secure_length
from qkd_sim.errcd.messages import MAX_BLOCK_BITS
from qkd_sim.errcd.verify import MAX_TAG_BITS, collision_bound
from qkd_sim.errors import InputError


@dataclass(frozen=True)
class Terms:
    """Under which terms a key counts as secret; both parties must have the same.

    Parameters
    ----------
    qber_limit
        A block whose sample shows a higher error rate is refused.
    preset_qber
        Compute the length for this error rate, and refuse blocks whose sample
        shows a higher one. Without, the length follows the rate observed.
    margin_sigmas
        Count that many standard deviations more errors in the sample.
    epsilons
        Accepted probabilities of failure.
    tag_bits
        Length of the hash that compares the keys.

    Raises
    ------
    InputError
        If a value is out of range, or the tag too short for `epsilons`.
    """

    qber_limit: float = 0.11
    preset_qber: float | None = None
    margin_sigmas: float = 0.0
    epsilons: Epsilons = field(default_factory=Epsilons)
    tag_bits: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.qber_limit < 0.5:
            raise InputError(f"the limit of the QBER is {self.qber_limit:g}, not in 0..0.5")
        if self.preset_qber is not None and not 0 < self.preset_qber < 0.5:
            raise InputError(f"the preset QBER is {self.preset_qber:g}, not in 0..0.5")
        if not 0 <= self.margin_sigmas <= 100:
            raise InputError(f"the error margin is {self.margin_sigmas:g}, not in 0..100")
        if not 0 < self.tag_bits <= MAX_TAG_BITS:
            raise InputError(f"a tag has 1 to {MAX_TAG_BITS} bits, not {self.tag_bits}")
        if collision_bound(MAX_BLOCK_BITS, self.tag_bits) > self.epsilons.correctness:
            raise InputError(
                f"a tag of {self.tag_bits} bits is too short for a correctness of"
                f" {self.epsilons.correctness:g}"
            )

    def digest(self) -> bytes:
        """Return 32 bytes that only the same terms have."""
        return hashlib.sha256(repr(astuple(self)).encode()).digest()

    def is_refused(self, sample: SampleEstimate) -> bool:
        """Whether a sample shows too many errors."""
        preset = 0.5 if self.preset_qber is None else self.preset_qber
        return sample.qber > min(self.qber_limit, preset)

    def final_bits(self, key_bits: int, sample: SampleEstimate, disclosed_bits: int) -> int:
        """Return how long the final key of a block may be.

        Parameters
        ----------
        key_bits
            Length of the reconciled key.
        sample
            What the sample showed.
        disclosed_bits
            Parities that reconciliation disclosed; the tag comes on top.
        """
        errors = float(sample.errors)
        if self.preset_qber is not None:
            errors = max(errors, sample.sample_bits * self.preset_qber)
        errors += self.margin_sigmas * math.sqrt(errors)
        counted = SampleEstimate(sample.sample_bits, min(sample.sample_bits, math.ceil(errors)))
        return secure_length(key_bits, counted, disclosed_bits + self.tag_bits, self.epsilons)


@dataclass(frozen=True)
class Conduct:
    """What a party chooses for itself; no choice endangers the key.

    Parameters
    ----------
    expected_qber
        Error rate that the sample size is chosen for.
    block_qber
        Error rate that Cascade's block sizes are chosen for; without, the
        sample's.
    variant
        Row of `VARIANTS`.
    check_bits
        How many random subsets are compared at the end of reconciliation.

    Raises
    ------
    InputError
        If a value is out of range or the variant unknown.
    """

    expected_qber: float = 0.03
    block_qber: float | None = None
    variant: str = "plain"
    check_bits: int = 20

    def __post_init__(self) -> None:
        for qber in (self.expected_qber, self.block_qber):
            if qber is not None and not 0 < qber < 0.5:
                raise InputError(f"the expected QBER is {qber:g}, not in 0..0.5")
        if self.variant not in VARIANTS:
            raise InputError(f"{self.variant!r} is no variant of Cascade: {', '.join(VARIANTS)}")
        if not 0 < self.check_bits <= MAX_SUBSETS:
            raise InputError(f"{self.check_bits} random checks, not 1..{MAX_SUBSETS}")
