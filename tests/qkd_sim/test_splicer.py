import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import InputError
from kme.ids import Epoch
from photon_files import SET_A, files_of
from qkd_sim.packets import Type3, Type4
from qkd_sim.splicer import log_line, splice


def results(values: list[int], n_bits: int = 1, epoch: int = 5) -> Type3:
    return Type3(Epoch(epoch), np.array(values, np.uint8), n_bits)


def kept(indices: list[int], data: list[int] | None = None, n_bits: int = 0) -> Type4:
    said = np.array([0] * len(indices) if data is None else data, np.uint8)
    return Type4(Epoch(5), np.array(indices, np.int64), said, 8, n_bits)


def test_set_a_is_spliced_byte_for_byte_as_the_c_program_does() -> None:
    for path in files_of(SET_A / "hec" / "t4"):
        spliced = splice(Type3.read(SET_A / "lec" / "t3" / path.name), Type4.read(path), 1)
        assert spliced.key.pack() == (SET_A / "lec" / "rawkey" / path.name).read_bytes()
        assert spliced.tests is None


def test_both_raw_keys_of_set_a_are_equal() -> None:
    for path in files_of(SET_A / "lec" / "rawkey"):
        assert path.read_bytes() == (SET_A / "hec" / "rawkey" / path.name).read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=60))
def test_bb84_copies_the_results_that_were_kept(pairs: list[tuple[int, bool]]) -> None:
    indices = [i for i, (_, is_kept) in enumerate(pairs) if is_kept]
    spliced = splice(results([bit for bit, _ in pairs]), kept(indices), 1)
    assert spliced.key.values.tolist() == [pairs[i][0] for i in indices]
    assert spliced.key.bits_per_entry == 1


def test_the_service_protocol_puts_both_patterns_together() -> None:
    spliced = splice(results([1, 2, 15], 4), kept([0, 2], [8, 4], 4), 0)
    assert spliced.key.values.tolist() == [0x18, 0xF4]
    assert spliced.key.bits_per_entry == 8


def test_four_detectors_part_key_from_bell_tests() -> None:
    own = [1, 2, 4, 8, 1, 2, 3]
    spliced = splice(results(own, 4), kept(list(range(7)), [4, 4, 4, 2, 0, 3, 1], 3), 4)
    assert spliced.key.values.tolist() == [1, 0]
    assert spliced.tests is not None
    assert spliced.tests.values.tolist() == [3 << 2 | 2, 0, 1 << 2 | 3]
    assert (spliced.key.bits_per_entry, spliced.tests.bits_per_entry) == (1, 4)


def test_bc_copies_basis_and_bit() -> None:
    assert splice(results([3, 1, 2], 2), kept([0, 2]), 5).key.values.tolist() == [3, 2]


def test_nothing_kept_is_a_key_without_bits() -> None:
    assert splice(results([1, 0]), kept([]), 1).key.pack()[8:12] == bytes(4)


def test_the_key_is_counted_as_type_4_is() -> None:
    indices = Type4(Epoch(5), np.array([0]), np.array([0], np.uint8), 8, 0, is_universal=True)
    assert splice(results([1]), indices, 1).key.is_universal


@pytest.mark.parametrize(
    ("ours", "theirs", "protocol", "rule"),
    [
        (results([1], epoch=6), kept([0]), 1, "type 3 is of epoch 00000006, type 4 of epoch"),
        (
            results([1], 2),
            kept([0]),
            1,
            "2 bits per result and 0 per index; protocol 1 has 1 and 0",
        ),
        (results([1]), kept([0], [0], 4), 1, "1 bits per result and 4 per index"),
        (results([1, 0]), kept([0, 1, 2, 9]), 1, "entry 2 has index 2, but there are 2 type-3"),
        (results([]), kept([0]), 1, "entry 0 has index 0, but there are 0"),
        (results([1]), kept([0]), 2, "defines no sifting"),
        (results([1]), kept([0]), 7, "there is no protocol 7"),
    ],
)
def test_packets_that_do_not_fit_each_other_are_refused(
    ours: Type3, theirs: Type4, protocol: int, rule: str
) -> None:
    with pytest.raises(InputError, match=rule):
        splice(ours, theirs, protocol)


def test_each_level_of_the_log_has_its_line() -> None:
    spliced = splice(results([1, 0]), kept([0, 1]), 1)
    assert log_line(spliced, 0) == "00000005"
    assert log_line(spliced, 1) == "00000005\t2"
    assert log_line(spliced, 2) == "epoch: 00000005, final events: 2"
