import numpy as np
import pytest

from qkd_sim.kernels import toeplitz
from qkd_sim.kernels.toeplitz import BASE_WORDS, HAS_CARRYLESS, toeplitz_product

WAYS = (True, False) if HAS_CARRYLESS else (True,)


def by_long_multiplication(matrix: int, vector: int) -> int:
    product = 0
    while vector:
        place = vector.bit_length() - 1
        product ^= matrix << place
        vector ^= 1 << place
    return product


@pytest.mark.parametrize("is_portable", WAYS)
@pytest.mark.parametrize(
    ("n_square", "n_columns", "n_rows"),
    [(32, 1, 1), (32, 3, 2), (32, 1, 4), (64, 2, 1), (128, 1, 2), (256, 2, 2)],
)
def test_the_product_is_that_of_long_multiplication(
    n_square: int, n_columns: int, n_rows: int, is_portable: bool
) -> None:
    rng = np.random.default_rng(n_square + n_columns)
    matrix = rng.integers(0, 1 << 64, (n_rows + n_columns) * n_square, dtype=np.uint64)
    vector = rng.integers(0, 1 << 64, n_columns * n_square, dtype=np.uint64)
    out = np.empty(n_rows * n_square, np.uint64)
    toeplitz_product(matrix, vector, out, n_square, is_portable)
    product = by_long_multiplication(
        int.from_bytes(matrix.astype("<u8").tobytes(), "little"),
        int.from_bytes(vector.astype("<u8").tobytes(), "little"),
    )
    expected = (product >> 64 * vector.size) & ((1 << 64 * out.size) - 1)
    assert int.from_bytes(out.astype("<u8").tobytes(), "little") == expected


def test_the_plain_functions_do_what_the_compiled_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    n_square = 2 * BASE_WORDS
    rng = np.random.default_rng(8)
    matrix = rng.integers(0, 1 << 64, 2 * n_square, dtype=np.uint64)
    vector = rng.integers(0, 1 << 64, n_square, dtype=np.uint64)
    expected = np.empty(n_square, np.uint64)
    toeplitz_product(matrix, vector, expected, n_square, True)  # noqa: FBT003
    for name in ("_add", "_descend", "_base_portable", "_square_product"):
        monkeypatch.setattr(toeplitz, name, getattr(toeplitz, name).py_func)
    out = np.empty(n_square, np.uint64)
    with np.errstate(over="ignore"):
        toeplitz_product.py_func(matrix, vector, out, n_square, True)  # noqa: FBT003
    assert out.tolist() == expected.tolist()


def test_the_carryless_base_does_what_the_portable_one_does() -> None:
    if not HAS_CARRYLESS:
        pytest.skip("this processor has no carry-less multiplication")
    work = np.random.default_rng(9).integers(0, 1 << 64, 4 * BASE_WORDS, dtype=np.uint64)
    other = work.copy()
    toeplitz._base_carryless(work, 0, 2 * BASE_WORDS, 3 * BASE_WORDS)
    toeplitz._base_portable(other, 0, 2 * BASE_WORDS, 3 * BASE_WORDS)
    assert work.tolist() == other.tolist()
