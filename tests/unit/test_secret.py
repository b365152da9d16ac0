"""kme.secret: key material does not print, compares safely, can be wiped."""

import base64
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.secret import Secret


@given(st.binary(min_size=1))
def test_a_secret_shows_its_length_and_nothing_else(value: bytes) -> None:
    secret = Secret(value)
    assert repr(secret) == str(secret) == f"{secret}" == f"Secret({len(value)} bytes)"


@given(st.binary(), st.binary())
def test_secrets_are_equal_just_when_their_bytes_are(one: bytes, other: bytes) -> None:
    assert (Secret(one) == Secret(other)) is (one == other)


def test_a_secret_never_equals_bare_bytes() -> None:
    assert Secret(b"key") != b"key"


def test_a_secret_copies_what_it_is_given() -> None:
    source = bytearray(b"key")
    secret = Secret(source)
    source[:] = b"no!"
    assert secret.reveal() == b"key"


@given(st.binary())
def test_base64_is_that_of_rfc_4648_with_padding(value: bytes) -> None:
    assert base64.b64decode(Secret(value).to_base64(), validate=True) == value


@given(st.lists(st.binary()), st.integers(0, 20), st.integers(0, 20))
def test_joining_and_slicing_act_as_on_bytes(parts: list[bytes], start: int, stop: int) -> None:
    whole = Secret.join([Secret(part) for part in parts])
    assert whole.reveal() == b"".join(parts)
    assert whole[start:stop].reveal() == b"".join(parts)[start:stop]
    assert len(whole) == sum(map(len, parts))


def test_a_wiped_secret_is_refused_and_its_bytes_are_zero() -> None:
    secret = Secret(b"key")
    secret.wipe()
    assert repr(secret) == "Secret(wiped)"
    assert bytes(secret._bytes) == bytes(3)
    uses = (secret.reveal, secret.to_base64, lambda: secret[0:1], lambda: secret == Secret(b""))
    for use in uses:
        with pytest.raises(ValueError, match="wiped"):
            use()
    with pytest.raises(ValueError, match="wiped"):
        _ = Secret(b"") == secret


def test_a_secret_neither_pickles_nor_hashes() -> None:
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(Secret(b"key"))
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(b"key"))
