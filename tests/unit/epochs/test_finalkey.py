"""Type-7 files: what is written is read again, the C programs' files too, and nothing else is."""

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.epochs import finalkey
from kme.epochs.finalkey import FinalKeyFile, read_final_key, write_final_key
from kme.errors import EpochFileError, InputError, UnavailableError
from kme.ids import Epoch
from kme.secret import Secret

VECTORS = Path(__file__).parents[2] / "vectors" / "qcrypto"
FILES = sorted(path for path in VECTORS.rglob("*t7/*") if path.is_file())
PAIRS = [("hec", "lec"), ("alice", "bob")]


def key_of_bits(bits: str) -> Secret:
    """Return a key whose bits are the digits of a text, first digit first."""
    padded = bits + "0" * (-len(bits) % 8)
    return Secret(bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)))


def final_of_bits(bits: str, epoch: int = 0x4F87) -> FinalKeyFile:
    return FinalKeyFile(Epoch(epoch), 4, len(bits), key_of_bits(bits))


def type7(n_bits: int, *words: int, tag: int = 7, epoch: int = 0x4F87, n_epochs: int = 4) -> bytes:
    return struct.pack(f"<{4 + len(words)}I", tag, epoch, n_epochs, n_bits, *words)


def test_the_vectors_are_there() -> None:
    assert len(FILES) >= 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(VECTORS)))
def test_a_file_of_the_c_programs_is_read_and_written_back_byte_for_byte(path: Path) -> None:
    final = read_final_key(path)
    assert final.start_epoch.file_name == path.name
    assert final.pack() == path.read_bytes()


def test_both_sides_of_every_link_hold_the_same_final_key() -> None:
    n_pairs = 0
    for path in FILES:
        for ours, theirs in PAIRS:
            if ours in str(path.relative_to(VECTORS)):
                other = VECTORS / str(path.relative_to(VECTORS)).replace(ours, theirs)
                assert read_final_key(path) == read_final_key(other)
                n_pairs += 1
    assert n_pairs == len(FILES) // 2


def test_the_first_bit_is_the_most_significant_one_of_the_first_word() -> None:
    final = FinalKeyFile.unpack(type7(33, 0x80000001, 0x80000000), "00004f87")
    assert final.key.reveal() == bytes([0x80, 0, 0, 1, 0x80])
    assert final.n_bits == 33


@settings(max_examples=200)
@given(bits=st.text("01", max_size=200), epoch=st.integers(0, 2**32 - 1), n=st.integers(1, 1 << 17))
def test_what_is_packed_is_unpacked_again(bits: str, epoch: int, n: int) -> None:
    final = FinalKeyFile(Epoch(epoch), n, len(bits), key_of_bits(bits))
    data = final.pack()
    assert len(data) == 16 + 4 * -(-len(bits) // 32)
    assert FinalKeyFile.unpack(data, final.start_epoch.file_name) == final


@settings(max_examples=300)
@given(data=st.binary(max_size=80))
def test_garbage_is_refused_with_an_error_of_its_own(data: bytes) -> None:
    with pytest.raises(EpochFileError):
        FinalKeyFile.unpack(data, "00004f87")


@settings(max_examples=300)
@given(
    bits=st.text("01", min_size=1, max_size=100), flip=st.integers(min_value=0), cut=st.booleans()
)
def test_a_changed_file_is_either_refused_or_says_what_it_says(
    bits: str, flip: int, cut: bool
) -> None:
    data = bytearray(final_of_bits(bits).pack())
    if cut:
        data = data[: flip % len(data)]
    else:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    try:
        final = FinalKeyFile.unpack(bytes(data), "00004f87")
    except EpochFileError:
        return
    assert not cut
    assert final.pack() == bytes(data)


@pytest.mark.parametrize(
    ("data", "name", "offset_bytes", "says"),
    [
        (b"", "00004f87", 0, "within the header"),
        (type7(0)[:15], "00004f87", 15, "within the header"),
        (type7(0, tag=3), "00004f87", 0, "tag is 0x3"),
        (type7(0, tag=0x107), "00004f87", 0, "no universal variant"),
        (type7(0, epoch=0x4F88), "00004f87", 4, "start epoch is 00004f88"),
        (type7(0), "4F87", 4, "named otherwise"),
        (type7(0, n_epochs=0), "00004f87", 8, "number of epochs is 0"),
        (type7(0, n_epochs=(1 << 17) + 1), "00004f87", 8, "number of epochs is 131073"),
        (type7(2**32 - 1), "00004f87", 12, "at most 8388608 bytes"),
        (type7(33, 0), "00004f87", 20, "make a file of 24 bytes, this one has 20"),
        (type7(32, 0, 0), "00004f87", 20, "make a file of 20 bytes, this one has 24"),
        (type7(32, 0) + b"\0", "00004f87", 20, "this one has 21"),
        (type7(33, 0, 0x40000000), "00004f87", 20, "behind bit 32 is not zero"),
        (type7(40, 0, 0x00000001), "00004f87", 20, "behind bit 39 is not zero"),
    ],
)
def test_each_broken_rule_is_named_with_its_place(
    data: bytes, name: str, offset_bytes: int, says: str
) -> None:
    with pytest.raises(EpochFileError, match=says) as caught:
        FinalKeyFile.unpack(data, f"some/folder/{name}")
    assert caught.value.offset_bytes == offset_bytes
    assert str(caught.value).startswith(f"some/folder/{name}: byte {offset_bytes}: ")


@pytest.mark.parametrize(
    ("n_epochs", "n_bits", "key", "says"),
    [
        (0, 8, b"k", "1 to 131072 epochs"),
        (1, -1, b"", "at most 8388608 bytes"),
        (1, 8 * finalkey.MAX_KEY_BYTES + 1, b"", "at most 8388608 bytes"),
        (1, 9, b"k", "do not fill 1 bytes"),
        (1, 9, b"kk", "must be zero"),
    ],
)
def test_fields_that_contradict_one_another_make_no_final_key(
    n_epochs: int, n_bits: int, key: bytes, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        FinalKeyFile(Epoch(1), n_epochs, n_bits, Secret(key))


def test_a_written_file_is_named_after_its_epoch_and_only_its_owner_reads_it(
    tmp_path: Path,
) -> None:
    final = final_of_bits("1" * 77)
    path = write_final_key(tmp_path, final)
    assert path == tmp_path / "00004f87"
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_final_key(path) == final
    assert [entry.name for entry in tmp_path.iterdir()] == ["00004f87"]


def test_a_folder_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_final_key(tmp_path / "none", final_of_bits("1"))


def test_a_file_that_is_too_large_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "00004f87"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(EpochFileError, match="more than 8388624 bytes"):
        read_final_key(path)


def test_the_largest_key_is_read(tmp_path: Path) -> None:
    final = FinalKeyFile(
        Epoch(1), 1, 8 * finalkey.MAX_KEY_BYTES, Secret(bytes(finalkey.MAX_KEY_BYTES))
    )
    assert read_final_key(write_final_key(tmp_path, final)) == final


def test_links_pipes_and_folders_are_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(final_of_bits("1").pack())
    (tmp_path / "00000001").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "00000002")
    (tmp_path / "00000003").mkdir()
    for name, says in (("1", "is a link"), ("2", "not a regular file"), ("3", "directory")):
        with pytest.raises(EpochFileError, match=says):
            read_final_key(tmp_path / f"0000000{name}")


def test_a_file_that_is_gone_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EpochFileError, match="cannot be read: No such file"):
        read_final_key(tmp_path / "00004f87")


def test_a_machine_out_of_descriptors_does_not_blame_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_final_key(tmp_path, final_of_bits("1"))

    def refuse(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnavailableError, match="cannot be read now"):
        read_final_key(path)


def test_a_final_key_never_prints_its_bits() -> None:
    final = final_of_bits("01100001" * 4)
    assert "aaaa" not in repr(final)
    assert "6161" not in repr(final)
