"""What goes from one KME to another for further slaves: whole, masked, and in parts."""

import random

import pytest

from kme.encoding import encode_fields
from kme.errors import InputError
from kme.ids import KeyId, KmeId, SaeId
from kme.secret import Secret
from kme.supply.grants import (
    MAX_DELIVERED_BYTES,
    MAX_DELIVERED_KEYS,
    MAX_SLAVES,
    Delivery,
    MaskedKey,
    deliveries,
    masked,
    pad_scope,
    unmasked,
    xor,
)
from kme.supply.key_id import IdScope
from kme.supply.ports import Key

A, C = KmeId("kme-a"), KmeId("kme-c")
ALICE, DAVE, FRANK = SaeId("alice"), SaeId("dave"), SaeId("frank")


def key_id(serial: int, n_bytes: int = 4) -> KeyId:
    return KeyId(serial, 8, n_bytes, serial)


def hidden(serial: int, n_bytes: int = 4) -> MaskedKey:
    return MaskedKey(key_id(serial, n_bytes), key_id(1000 + serial, n_bytes), bytes(n_bytes))


@pytest.mark.parametrize("n_bytes", [1, 7, 32, 8192])
def test_a_pad_hides_a_key_and_gives_it_back(n_bytes: int) -> None:
    rng = random.Random(n_bytes)
    key, pad = rng.randbytes(n_bytes), rng.randbytes(n_bytes)
    told = masked(Key(key_id(1, n_bytes), Secret(key)), Key(key_id(2, n_bytes), Secret(pad)))
    assert told.masked == bytes(a ^ b for a, b in zip(key, pad, strict=True))
    assert unmasked(told, Secret(pad)) == Secret(key)
    assert "masked" not in repr(told)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(InputError):
        xor(b"ab", b"a")
    for key, pad, text in ((4, 4, 3), (4, 5, 4), (5, 4, 4)):
        with pytest.raises(InputError):
            MaskedKey(key_id(1, key), key_id(2, pad), bytes(text))


@pytest.mark.parametrize(
    ("slaves", "serials"),
    [
        ((), (1,)),
        ((DAVE, DAVE), (1,)),
        (tuple(SaeId(f"sae-{n}") for n in range(MAX_SLAVES + 1)), (1,)),
        ((DAVE,), ()),
        ((DAVE,), (1, 1)),
        ((DAVE,), tuple(range(MAX_DELIVERED_KEYS + 1))),
    ],
)
def test_a_delivery_has_nothing_twice_and_is_bounded(
    slaves: tuple[SaeId, ...], serials: tuple[int, ...]
) -> None:
    with pytest.raises(InputError):
        Delivery(ALICE, slaves, tuple(hidden(serial) for serial in serials))


def test_one_pad_for_two_keys_is_refused() -> None:
    keys = (hidden(1), MaskedKey(key_id(2), hidden(1).pad_id, bytes(4)))
    with pytest.raises(InputError):
        Delivery(ALICE, (DAVE,), keys)


def test_only_the_same_delivery_has_the_same_proof() -> None:
    one = hidden(1)
    proof = Delivery(ALICE, (DAVE, FRANK), (one,)).proof_of(one)
    assert Delivery(ALICE, (FRANK, DAVE), (hidden(2), one)).proof_of(one) == proof
    others = [
        (ALICE, (DAVE,), one),
        (DAVE, (DAVE, FRANK), one),
        (ALICE, (DAVE, FRANK), MaskedKey(one.key_id, one.pad_id, b"0001")),
        (ALICE, (DAVE, FRANK), MaskedKey(one.key_id, key_id(7), one.masked)),
        (ALICE, (DAVE, FRANK), MaskedKey(key_id(7), one.pad_id, one.masked)),
    ]
    proofs = {Delivery(master, slaves, (key,)).proof_of(key) for master, slaves, key in others}
    assert len(proofs | {proof}) == 6


def test_no_two_saes_have_the_scope_of_a_pad() -> None:
    scope = pad_scope(A, C)
    assert scope != pad_scope(C, A)
    label = encode_fields(b"kme key_ID 1")
    assert IdScope.on_link((ALICE, A), (DAVE, C)).encoded().startswith(label)
    assert not scope.startswith(label)


def test_many_keys_are_divided_and_keep_their_order() -> None:
    keys = [hidden(serial) for serial in range(300)]
    parts = list(deliveries(ALICE, (DAVE,), keys))
    assert [len(part.keys) for part in parts] == [128, 128, 44]
    assert [key for part in parts for key in part.keys] == keys
    large = [hidden(serial, 8192) for serial in range(25)]
    parts = list(deliveries(ALICE, (DAVE,), large))
    assert [len(part.keys) for part in parts] == [12, 12, 1]
    assert MAX_DELIVERED_BYTES == 12 * 8192
    assert list(deliveries(ALICE, (DAVE,), [])) == []
