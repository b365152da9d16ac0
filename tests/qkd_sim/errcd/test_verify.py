from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errcd_parties import random_bits
from qkd_sim.errcd.randomness import SeededRandomness
from qkd_sim.errcd.verify import PRIME, KeyHash, collision_bound
from qkd_sim.errors import ChannelError

RANDOMNESS = SeededRandomness(1, "test")


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 2000), seed=st.integers(0, 1000), data=st.data())
def test_keys_that_differ_anywhere_have_different_tags(
    n: int, seed: int, data: st.DataObject
) -> None:
    key = random_bits(np.random.default_rng(seed), n)
    other = key.copy()
    for place in data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=5)):
        other[place] ^= 1
    key_hash = KeyHash.draw(RANDOMNESS)
    assert key_hash.tag(key, 64) == key_hash.tag(key.copy(), 64)
    assert key_hash.tag(key, 64) != key_hash.tag(other, 64)


def test_short_tags_collide_as_often_as_the_bound_says_and_no_more() -> None:
    rng = np.random.default_rng(2)
    key, other = random_bits(rng, 500), random_bits(rng, 500)
    tag_bits, n_runs = 6, 8000
    n_equal = 0
    for _ in range(n_runs):
        key_hash = KeyHash.draw(RANDOMNESS)
        n_equal += key_hash.tag(key, tag_bits) == key_hash.tag(other, tag_bits)
    bound = float(collision_bound(500, tag_bits))
    assert bound == pytest.approx(2**-tag_bits)
    assert abs(n_equal / n_runs - bound) < 4 * (bound / n_runs) ** 0.5


def test_the_tag_is_the_polynomial_worked_out_by_hand() -> None:
    key = np.array([1] + [0] * 119 + [0] * 7 + [1], np.uint8)
    # two words of 15 bytes: first bit set = 0x80 of byte 0; last byte of the second = 0x01
    first, second, length = 0x80, 0x01, 128
    point, factor, summand = 3**70 % PRIME, 5**50 % PRIME, 7**40 % PRIME
    value = ((length * point + first) * point + second) % PRIME
    expected = ((value * factor + summand) % PRIME) >> (127 - 64)
    tag = KeyHash(point, factor, summand).tag(key, 64)
    assert tag == expected.to_bytes(16, "little")


def test_the_bound_counts_words_and_tag() -> None:
    assert collision_bound(120, 64) == Fraction(1 + 2**63, PRIME)
    assert collision_bound(121, 64) == Fraction(2 + 2**63, PRIME)
    assert collision_bound(1 << 24, 64) < Fraction(1, 10**19)


def test_a_packed_hash_function_is_unpacked_again() -> None:
    key_hash = KeyHash.draw(RANDOMNESS)
    assert KeyHash.parse(key_hash.pack()) == key_hash
    assert len(key_hash.pack()) == 48


@pytest.mark.parametrize("data", [(PRIME).to_bytes(16, "little") + bytes(32), b"\xff" * 48])
def test_a_hash_function_outside_the_family_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        KeyHash.parse(data)
