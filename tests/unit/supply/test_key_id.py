import dataclasses
import hashlib
import hmac
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import IdentifierError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.supply.key_id import IdScope, is_made_for, make_key_id

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
ALICE, BOB, EVE = SaeId("alice"), SaeId("bob"), SaeId("eve")
ID_KEY = Secret(bytes(range(32)))
SCOPE = IdScope.on_link((ALICE, A), (BOB, B))
KEY_ID = make_key_id(ID_KEY, SCOPE.encoded(), 7, 8, 32)

_PLACES = st.tuples(
    st.integers(0, (1 << KeyId.NUMBER_BITS) - 1),
    st.integers(0, (1 << KeyId.OFFSET_BITS) - 1),
    st.integers(1, KeyId.MAX_BYTES),
)
_SAES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)


@given(_PLACES, st.binary(min_size=32, max_size=32), _SAES, _SAES)
def test_an_id_that_went_over_the_wire_is_still_its_own_certificate(
    place: tuple[int, int, int], id_key: bytes, master: str, slave: str
) -> None:
    scope = IdScope.on_link((SaeId(master), A), (SaeId(slave), B)).encoded()
    key_id = make_key_id(Secret(id_key), scope, *place)
    read = KeyId.parse(str(key_id))
    assert (read.block_number, read.offset_granules, read.n_bytes) == place
    assert is_made_for(Secret(id_key), scope, read)


def test_the_tag_is_the_beginning_of_an_hmac_over_all_fields() -> None:
    # Written out by hand: label, pair, homes, SAEs, then number, offset, length.
    text = b"".join(
        len(field).to_bytes(4, "big") + field
        for field in (
            b"kme key_ID 1",
            b"kme-a",
            b"kme-b",
            b"kme-a",
            b"kme-b",
            b"alice",
            b"bob",
            (7).to_bytes(8, "big"),
            (8).to_bytes(4, "big"),
            (32).to_bytes(4, "big"),
        )
    )
    digest = hmac.new(bytes(range(32)), text, hashlib.sha256).digest()
    assert f"{KEY_ID.tag:062b}" == f"{int.from_bytes(digest, 'big'):0256b}"[:62]


def test_both_kmes_write_the_pair_alike() -> None:
    assert IdScope.on_link((BOB, B), (ALICE, A)).pair == SCOPE.pair == (A, B)


@pytest.mark.parametrize(
    "scope",
    [
        dataclasses.replace(SCOPE, pair=(A, C)),
        dataclasses.replace(SCOPE, pair=(B, A)),
        dataclasses.replace(SCOPE, master_kme=C),
        dataclasses.replace(SCOPE, slave_kme=C),
        dataclasses.replace(SCOPE, master=EVE),
        dataclasses.replace(SCOPE, slave=EVE),
        IdScope.on_link((BOB, B), (ALICE, A)),
        IdScope.on_link((BOB, A), (ALICE, B)),
        dataclasses.replace(SCOPE, master=SaeId("aliceb"), slave=SaeId("ob")),
    ],
)
def test_an_id_is_for_nobody_else(scope: IdScope) -> None:
    assert is_made_for(ID_KEY, SCOPE.encoded(), KEY_ID)
    assert not is_made_for(ID_KEY, scope.encoded(), KEY_ID)


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(KEY_ID, block_number=6),
        dataclasses.replace(KEY_ID, offset_granules=9),
        dataclasses.replace(KEY_ID, n_bytes=31),
        dataclasses.replace(KEY_ID, n_bytes=33),
        dataclasses.replace(KEY_ID, tag=KEY_ID.tag ^ 1),
    ],
)
def test_an_id_of_another_place_is_refused(changed: KeyId) -> None:
    assert not is_made_for(ID_KEY, SCOPE.encoded(), changed)


def test_every_flipped_bit_is_refused() -> None:
    value = int(str(KEY_ID).replace("-", ""), 16)
    n_read = 0
    for bit in range(128):
        try:
            changed = KeyId.parse(_uuid(value ^ 1 << bit))
        except IdentifierError:  # version and variant
            continue
        n_read += 1
        assert not is_made_for(ID_KEY, SCOPE.encoded(), changed)
    assert n_read == 122


def test_another_block_has_other_tags() -> None:
    assert not is_made_for(Secret(bytes(32)), SCOPE.encoded(), KEY_ID)


def test_guessing_does_not_work() -> None:
    """2^-62 per try: none of ten thousand succeeds, or the tag is not what it seems."""
    rng = random.Random(62)
    guesses = (dataclasses.replace(KEY_ID, tag=rng.getrandbits(62)) for _ in range(10_000))
    assert not any(is_made_for(ID_KEY, SCOPE.encoded(), guess) for guess in guesses)


def test_all_62_bits_of_the_tag_are_used() -> None:
    rng = random.Random(1)
    seen_set = seen_clear = 0
    for _ in range(64):
        tag = make_key_id(Secret(rng.randbytes(32)), SCOPE.encoded(), 1, 8, 8).tag
        seen_set |= tag
        seen_clear |= ~tag
    assert seen_set & seen_clear & ((1 << 62) - 1) == (1 << 62) - 1


@pytest.mark.parametrize(
    "place", [(1 << 34, 8, 32), (-1, 8, 32), (1, 1 << 13, 32), (1, -1, 32), (1, 8, 0), (1, 8, 8193)]
)
def test_a_place_that_fits_no_id_is_refused(place: tuple[int, int, int]) -> None:
    with pytest.raises(IdentifierError):
        make_key_id(ID_KEY, SCOPE.encoded(), *place)


def _uuid(value: int) -> str:
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
