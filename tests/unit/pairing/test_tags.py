import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import PairingError
from kme.ids import Epoch, SourceId
from kme.pairing.tags import TAG_BYTES, has_right_tag, id_key, make_tag
from kme.secret import Secret
from kme.store.records import FinalKeyRef, Proposal, SourceClass
from simulated_pair import ALICE_KME, BOB_KME, LINK

PAIR = (ALICE_KME, BOB_KME)
BLOCK = Secret(random.Random(1).randbytes(600))
PROPOSAL = Proposal(
    7,
    BOB_KME,
    (FinalKeyRef(LINK, Epoch(0xC74E4F86)), FinalKeyRef(LINK, Epoch(0xC74E4F87), 1)),
    86_400,
    SourceClass.QKD,
    bytes(TAG_BYTES),
)
TAGGED = replace(PROPOSAL, tag=make_tag(PAIR, PROPOSAL, BLOCK))


def poly1305(key: bytes, text: bytes) -> bytes:
    """Return the tag of RFC 8439 section 2.5.1, in plain integers."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(text), 16):
        total = (total + int.from_bytes(text[at : at + 16] + b"\x01", "little")) * r
        total %= (1 << 130) - 5
    total += int.from_bytes(key[16:32], "little")
    return (total & ((1 << 128) - 1)).to_bytes(16, "little")


def test_the_plain_integers_agree_with_the_rfc() -> None:
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    tag = poly1305(key, b"Cryptographic Forum Research Group")
    assert tag.hex() == "a8061dc1305136c6c22b8baf0c0127a9"


def test_a_tag_has_a_known_answer() -> None:
    def field(value: bytes) -> bytes:
        return len(value).to_bytes(4, "big") + value

    def number(value: int) -> bytes:
        return field(value.to_bytes(8, "big"))

    block = BLOCK.reveal()
    first = field(b"link") + number(0xC74E4F86) + number(0)
    second = field(b"link") + number(0xC74E4F87) + number(1)
    r = int.from_bytes(block[:16], "little")
    unused = (r & ~0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF).to_bytes(16, "little")
    text = (
        field(b"kme pairing: key block, version 1")
        + field(b"kme-a")
        + field(b"kme-b")
        + number(7)
        + field(b"kme-b")
        + number(86_400)
        + field(b"qkd")
        + field(field(first) + field(second))
        + field(unused)
        + field(block[32:])
    )
    assert make_tag(PAIR, PROPOSAL, BLOCK) == poly1305(block[:32], text)


def test_the_right_tag_is_right() -> None:
    assert has_right_tag(PAIR, TAGGED, BLOCK)


def test_any_flipped_bit_of_the_block_is_seen() -> None:
    block = bytearray(BLOCK.reveal())
    for bit in range(8 * len(block)):
        block[bit // 8] ^= 1 << bit % 8
        assert not has_right_tag(PAIR, TAGGED, Secret(block)), f"bit {bit}"
        block[bit // 8] ^= 1 << bit % 8
    assert has_right_tag(PAIR, TAGGED, Secret(block))


def test_any_flipped_bit_of_the_tag_is_seen() -> None:
    for bit in range(8 * TAG_BYTES):
        tag = bytearray(TAGGED.tag)
        tag[bit // 8] ^= 1 << bit % 8
        assert not has_right_tag(PAIR, replace(TAGGED, tag=bytes(tag)), BLOCK)


def other_proposals() -> Iterator[Proposal]:
    """Return proposals that differ from the tagged one in one thing each."""
    first, second = TAGGED.entries
    yield replace(TAGGED, number=8)
    yield replace(TAGGED, owner=ALICE_KME)
    yield replace(TAGGED, entries=(second, first))
    yield replace(TAGGED, entries=(first,))
    yield replace(TAGGED, entries=(first, replace(second, part=2)))
    yield replace(TAGGED, entries=(replace(first, epoch=Epoch(1)), second))
    other = SourceId("linc")
    yield replace(TAGGED, entries=tuple(replace(ref, source=other) for ref in TAGGED.entries))
    yield replace(TAGGED, lifetime_s=86_401)
    yield replace(TAGGED, source_class=SourceClass.RANDOM)


@pytest.mark.parametrize("proposal", list(other_proposals()))
def test_another_proposal_has_another_tag(proposal: Proposal) -> None:
    assert not has_right_tag(PAIR, proposal, BLOCK)


def test_another_pair_has_another_tag() -> None:
    assert not has_right_tag((BOB_KME, ALICE_KME), TAGGED, BLOCK)


def test_the_tag_says_nothing_about_itself() -> None:
    assert make_tag(PAIR, TAGGED, BLOCK) == make_tag(PAIR, PROPOSAL, BLOCK)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(64, 200), st.integers(1, 40))
def test_a_longer_block_has_another_tag(seed: int, n_bytes: int, n_more: int) -> None:
    block = random.Random(seed).randbytes(n_bytes)
    tagged = replace(PROPOSAL, tag=make_tag(PAIR, PROPOSAL, Secret(block)))
    assert has_right_tag(PAIR, tagged, Secret(block))
    assert not has_right_tag(PAIR, tagged, Secret(block + bytes(n_more)))


def test_the_id_key_is_the_second_half_of_the_reserved_bytes() -> None:
    assert id_key(BLOCK) == BLOCK[32:64]


def test_a_block_without_room_for_its_keys_is_refused() -> None:
    short = Secret(bytes(63))
    with pytest.raises(PairingError, match="63 bytes"):
        make_tag(PAIR, PROPOSAL, short)
    with pytest.raises(PairingError, match="63 bytes"):
        id_key(short)
