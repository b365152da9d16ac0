"""result - what became of a block: figures to be told, and a key that is not."""

from dataclasses import dataclass

from kme.ids import Epoch
from kme.secret import Secret
from qkd_sim.errcd.entropy import binary_entropy
from qkd_sim.errcd.estimate import SampleEstimate


@dataclass(frozen=True)
class BlockResult:
    """What became of a block, in figures; no key.

    Parameters
    ----------
    start_epoch, n_epochs
        Which epochs it was made of.
    sifted_bits
        Length of the sifted key.
    sample
        How many bits were disclosed to estimate the error rate, and how many
        of them differed.
    corrected_bits
        How many errors reconciliation found in the others.
    disclosed_bits
        How many parities it disclosed.
    verification_bits
        Length of the tag.
    final_bits
        Length of the final key.
    seconds
        Duration of each step.
    """

    start_epoch: Epoch
    n_epochs: int
    sifted_bits: int
    sample: SampleEstimate
    corrected_bits: int
    disclosed_bits: int
    verification_bits: int
    final_bits: int
    seconds: dict[str, float]

    @property
    def qber(self) -> float:
        """Error rate of the sample."""
        return self.sample.qber

    @property
    def key_bits(self) -> int:
        """Length of the reconciled key."""
        return self.sifted_bits - self.sample.sample_bits

    @property
    def efficiency(self) -> float | None:
        """Parities disclosed, over the Shannon limit; None for a key without errors."""
        limit = self.key_bits * binary_entropy(self.corrected_bits / self.key_bits)
        return self.disclosed_bits / limit if limit else None


@dataclass(frozen=True)
class FinishedBlock:
    """A final key and how it came about.

    Parameters
    ----------
    result
        The figures.
    key
        Final key, bit 0 the most significant bit of byte 0, zeros behind the last.
    """

    result: BlockResult
    key: Secret
