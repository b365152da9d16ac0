import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import EpochFileError, InputError
from kme.ids import Epoch
from packet_rules import (
    check_header_rules,
    check_whatever_is_read_is_canonical,
    epochs,
    mutations,
)
from qkd_sim.packets import Type3

HEADER_BYTES = 16


def packet(values: list[int], bits_per_entry: int = 1) -> Type3:
    return Type3(Epoch(5), np.array(values, np.uint8), bits_per_entry)


@st.composite
def packets(draw: st.DrawFn) -> Type3:
    epoch, is_universal = draw(epochs)
    n_bits = draw(st.integers(1, 8))
    values = draw(st.lists(st.integers(0, (1 << n_bits) - 1), max_size=70))
    return Type3(epoch, np.array(values, np.uint8), n_bits, is_universal)


@settings(deadline=None, max_examples=100)
@given(packets())
def test_what_is_packed_is_unpacked_again(original: Type3) -> None:
    data = original.pack()
    assert len(data) == 16 + 4 * -(-original.values.size * original.bits_per_entry // 32)
    found = Type3.unpack(data, Path(original.epoch.file_name))
    assert np.array_equal(found.values, original.values)
    for name in ("epoch", "bits_per_entry", "is_universal"):
        assert getattr(found, name) == getattr(original, name)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_mutated_packet_is_refused_or_is_a_packet(data: st.DataObject) -> None:
    mutated = data.draw(mutations(data.draw(packets()).pack()))
    check_whatever_is_read_is_canonical(Type3, mutated, HEADER_BYTES)


def test_a_header_that_is_wrong_is_refused(tmp_path: Path) -> None:
    check_header_rules(packet([1] * 40), tmp_path)


def test_entries_are_laid_out_as_specified() -> None:
    data = packet([0b101, 0b011, *[0] * 9], 3).pack()
    assert struct.unpack("<6I", data) == (3, 5, 11, 3, 0b101_011 << 26, 0)


def test_no_entries_are_a_header_and_nothing_else() -> None:
    assert packet([]).pack() == struct.pack("<4I", 3, 5, 0, 1)
    assert Type3.unpack(packet([]).pack(), "stream").values.size == 0


@pytest.mark.parametrize("n_bits", [0, 9, 32, 1 << 31])
def test_a_number_of_bits_that_cannot_be_is_neither_written_nor_read(n_bits: int) -> None:
    with pytest.raises(InputError, match=r"bits per entry, not 1\.\.8"):
        packet([], n_bits).pack()
    with pytest.raises(EpochFileError, match=f"byte 12: {n_bits} bits per entry"):
        Type3.unpack(struct.pack("<5I", 3, 5, 1, n_bits, 0), "stream")


def test_entries_that_do_not_fit_are_not_written() -> None:
    with pytest.raises(InputError, match="entries do not fit into 2 bits"):
        packet([4], 2).pack()
    with pytest.raises(InputError, match="entries of shape"):
        Type3(Epoch(5), np.zeros((2, 2), np.uint8), 1).pack()


def test_bits_behind_the_last_entry_are_refused() -> None:
    data = struct.pack("<5I", 3, 5, 31, 1, 1)
    with pytest.raises(EpochFileError, match="byte 16: bits set behind the last entry"):
        Type3.unpack(data, "stream")
    assert Type3.unpack(struct.pack("<5I", 3, 5, 32, 1, 1), "stream").values[-1] == 1


def test_results_are_not_printed_and_their_file_is_for_its_owner_only(tmp_path: Path) -> None:
    secret = packet([1, 0, 1, 1])
    assert "values" not in repr(secret)
    assert "array" not in repr(secret)
    assert secret.write(tmp_path).stat().st_mode & 0o777 == 0o600
