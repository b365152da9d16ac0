from kme.ids import KeyId
from kme.secret import Secret
from kme.store.records import SourceClass, Stock
from kme.supply.ports import Key, SupplyStock
from supply_pair import B

QKD = frozenset({SourceClass.QKD})


def test_a_key_does_not_show_its_bytes() -> None:
    key = Key(KeyId(1, 8, 16, 0), Secret(b"sixteen bytes ok"))
    assert "Secret(16 bytes)" in repr(key)
    assert "sixteen" not in repr(key)


def test_stock_counts_what_fits_into_each_piece() -> None:
    stock = SupplyStock(B, True, QKD, Stock({3: 2, 10: 1}))  # noqa: FBT003
    assert stock.free_bytes == 8 * 16
    assert stock.max_key_bytes == 80
    assert [stock.count_of(n_bytes) for n_bytes in (8, 24, 25, 80, 81)] == [16, 5, 2, 1, 0]


def test_a_size_that_no_key_can_have_is_never_in_stock() -> None:
    stock = SupplyStock(B, True, QKD, Stock({8000: 1}))  # noqa: FBT003
    assert stock.max_key_bytes == KeyId.MAX_BYTES == 8192
    assert [stock.count_of(n_bytes) for n_bytes in (-8, 0, 8192, 8193)] == [0, 0, 7, 0]


def test_nothing_can_be_had_while_the_peer_is_silent() -> None:
    stock = SupplyStock(B, False, QKD, Stock({10: 1}))  # noqa: FBT003
    assert stock.count_of(8) == stock.max_key_bytes == 0
    assert stock.free_bytes == 80


def test_key_is_called_quantum_only_if_all_of_it_is() -> None:
    both = frozenset(SourceClass)
    room = Stock({})
    assert SupplyStock(B, True, QKD, room).is_quantum  # noqa: FBT003
    for classes in (both, frozenset({SourceClass.RANDOM}), frozenset[SourceClass]()):
        assert not SupplyStock(B, True, classes, room).is_quantum  # noqa: FBT003
