from hypothesis import given
from hypothesis import strategies as st

from kme.encoding import encode_fields

_FIELDS = st.lists(st.binary(max_size=6), max_size=4)


def test_each_field_stands_behind_its_length() -> None:
    assert encode_fields(b"ab", b"", b"c").hex() == "000000026162000000000000000163"


def test_no_fields_are_no_bytes() -> None:
    assert encode_fields() == b""


@given(_FIELDS, _FIELDS)
def test_two_lists_of_fields_never_look_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (encode_fields(*one) == encode_fields(*other)) == (one == other)


@given(_FIELDS, _FIELDS)
def test_joined_encodings_encode_the_joined_lists(one: list[bytes], other: list[bytes]) -> None:
    assert encode_fields(*one) + encode_fields(*other) == encode_fields(*one, *other)


@given(st.binary(max_size=4), st.binary(max_size=4), st.integers(0, 8))
def test_bytes_that_move_to_the_next_field_change_the_encoding(
    one: bytes, other: bytes, cut: int
) -> None:
    joined = one + other
    moved = encode_fields(joined[:cut], joined[cut:])
    assert (moved == encode_fields(one, other)) == (joined[:cut] == one)
