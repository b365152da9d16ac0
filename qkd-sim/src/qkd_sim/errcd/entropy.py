"""entropy - of one biased bit."""

import math


def binary_entropy(probability: float) -> float:
    """Return the entropy of one biased bit, in bits."""
    if not 0 < probability < 1:
        return 0.0
    other = 1 - probability
    return -probability * math.log2(probability) - other * math.log2(other)
