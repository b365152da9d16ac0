"""kme.units: exact, or an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import RequestError
from kme.units import bytes_of_bits, granules_of_bytes


@given(st.integers(0, 10**6))
def test_whole_bytes_convert_exactly(n_bytes: int) -> None:
    assert bytes_of_bits(8 * n_bytes) == n_bytes


@pytest.mark.parametrize("size_bits", [1, 7, 9, 257])
def test_broken_bytes_are_refused_in_the_words_of_the_standard(size_bits: int) -> None:
    with pytest.raises(RequestError, match=r"^size shall be a multiple of 8$"):
        bytes_of_bits(size_bits)


@given(st.integers(1, 10**6))
def test_a_key_occupies_as_few_granules_as_hold_it(n_bytes: int) -> None:
    n_granules = granules_of_bytes(n_bytes)
    assert 8 * (n_granules - 1) < n_bytes <= 8 * n_granules
