"""amplify - a reconciled key down to a final one, by a random Toeplitz matrix over GF(2)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qkd_sim.errors import KeyLengthError
from qkd_sim.kernels.bits import WORD_BITS, pack_words, unpack_words
from qkd_sim.kernels.toeplitz import BASE_WORDS, HAS_CARRYLESS, toeplitz_product

_LARGEST_SQUARE_WORDS: Final = BASE_WORDS << 14


def amplify(
    key: NDArray[np.uint8],
    seed: NDArray[np.uint8],
    m_bits: int,
    *,
    is_portable: bool = not HAS_CARRYLESS,
) -> NDArray[np.uint8]:
    """Hash a reconciled key down to a final key with a random Toeplitz matrix.

    The matrix is never built. ``seed`` holds its first row from right to left
    and then its first column downwards, so every row is a window of ``seed``
    read backwards.

    Parameters
    ----------
    key : (n,) ndarray of uint8
        Reconciled key, one bit per element, each 0 or 1.
    seed : (n + m_bits - 1,) ndarray of uint8
        Public random bits, fresh for this block, agreed over the
        authenticated classical channel.
    m_bits : int
        Length of the final key in bits, ``0 < m_bits <= n``.
    is_portable : bool
        Do without the processor's carry-less multiplication; same result, slower.

    Returns
    -------
    (m_bits,) ndarray of uint8
        Final key, one bit per element.

    Raises
    ------
    KeyLengthError
        If `m_bits` is not in ``1..n`` or `seed` has the wrong length.

    See Also
    --------
    qkd_sim.errcd.finitekey.secure_length : How large `m_bits` may be.

    Notes
    -----
    Toeplitz matrices over GF(2) are a two-universal family [1]_, which is
    what the leftover hash lemma asks of the hash [2]_, section 5.5. Bit ``i``
    of the result is coefficient ``n - 1 + i`` of the product of the
    polynomials whose coefficients are ``seed`` and ``key``.

    References
    ----------
    .. [1] H. Krawczyk, "LFSR-based hashing and authentication", CRYPTO '94.
    .. [2] R. Renner, "Security of quantum key distribution", 2005,
       arXiv:quant-ph/0512258.

    Examples
    --------
    >>> key = np.array([1, 0, 1, 1], dtype=np.uint8)
    >>> seed = np.array([1, 0, 0, 1, 1], dtype=np.uint8)
    >>> amplify(key, seed, m_bits=2)
    array([0, 1], dtype=uint8)
    """
    n = key.size
    if not 0 < m_bits <= n:
        raise KeyLengthError(f"m_bits is {m_bits}, must be in 1..{n}")
    if seed.size != n + m_bits - 1:
        raise KeyLengthError(f"seed has {seed.size} bits, must have {n + m_bits - 1}")
    n_square = _square_words(n, m_bits)
    square_bits = n_square * WORD_BITS
    n_columns = -(-n // square_bits)
    n_rows = -(-m_bits // square_bits)
    padded = np.zeros((n_rows + n_columns) * square_bits, np.uint8)
    # moved up so that coefficient n - 1 of the product comes to stand on a square's edge
    first = n_columns * square_bits - n + 1
    padded[first : first + seed.size] = seed
    vector = np.zeros(n_columns * square_bits, np.uint8)
    vector[:n] = key
    out = np.empty(n_rows * n_square, np.uint64)
    toeplitz_product(pack_words(padded), pack_words(vector), out, n_square, is_portable)
    return unpack_words(out, m_bits)


def _square_words(n_bits: int, m_bits: int) -> int:
    """Return the size of square that makes the fewest base products, padding included."""
    best = BASE_WORDS
    fewest = float("inf")
    size, cost = BASE_WORDS, 1
    while size <= _LARGEST_SQUARE_WORDS:
        bits = size * WORD_BITS
        total = -(-n_bits // bits) * -(-m_bits // bits) * cost
        if total < fewest:
            best, fewest = size, total
        size, cost = 2 * size, 3 * cost
    return best
