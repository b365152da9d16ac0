import hashlib
import hmac

import pytest

from kme.errors import PairingError
from kme.ids import KmeId
from kme.pairing.compare import compare_tag, compared
from kme.pairing.ports import BlockTag, Comparison
from kme.secret import Secret

PAIR = (KmeId("kme-a"), KmeId("kme-b"))
BLOCK = bytes(range(256)) * 4


def hkdf(secret: bytes, label: bytes) -> bytes:
    """Derive 32 bytes as RFC 5869 says, with no salt; one step is enough."""
    pseudo_random = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(pseudo_random, label + b"\x01", "sha256")


def field(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def test_the_tag_is_hmac_over_pair_number_and_bytes_under_a_derived_key() -> None:
    key = hkdf(BLOCK[32:64], b"kme compare: key for tags of paired blocks, version 1")
    text = b"".join(map(field, (b"kme-a", b"kme-b", (7).to_bytes(8, "big"), BLOCK)))
    expected = hmac.new(key, text, hashlib.sha256).digest()
    assert compare_tag(PAIR, 7, Secret(BLOCK)) == BlockTag(7, expected)


@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, 1023])
def test_a_difference_anywhere_shows(at: int) -> None:
    changed = bytearray(BLOCK)
    changed[at] ^= 1
    one, other = compare_tag(PAIR, 7, Secret(BLOCK)), compare_tag(PAIR, 7, Secret(changed))
    assert compared(one, other) is Comparison.UNEQUAL


def test_equal_blocks_of_one_number_and_pair_are_equal() -> None:
    one, other = (compare_tag(PAIR, 7, Secret(BLOCK)) for _ in range(2))
    assert compared(one, other) is Comparison.EQUAL
    assert compared(None, other) is Comparison.ABSENT
    assert compared(compare_tag(PAIR, 8, Secret(BLOCK)), other) is Comparison.UNEQUAL
    elsewhere = compare_tag((PAIR[0], KmeId("kme-c")), 7, Secret(BLOCK))
    assert compared(elsewhere, other) is Comparison.UNEQUAL


def test_a_tag_that_is_another_blocks_is_not_taken() -> None:
    tag = compare_tag(PAIR, 7, Secret(BLOCK))
    assert compared(tag, BlockTag(8, tag.tag)) is Comparison.UNEQUAL


def test_a_block_too_short_for_keys_of_its_own_has_no_tag() -> None:
    with pytest.raises(PairingError):
        compare_tag(PAIR, 7, Secret(bytes(63)))
