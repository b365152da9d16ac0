import gzip
import tracemalloc
from pathlib import Path

import pytest

from kme.errors import InputError
from kme.vault.snapshot_file import SnapshotFacts, check_snapshot
from snapshot_archives import INDEX, STATE, members, write_archive


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "whole", members())


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_snapshot(path)
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_whole_snapshot_says_after_which_write_it_was_taken(whole: Path) -> None:
    assert check_snapshot(whole) == SnapshotFacts(INDEX, len(STATE))


def test_a_snapshot_that_breaks_off_anywhere_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    for n_bytes in (0, 1, 5, 20, 300, len(content) // 2, len(content) - 9, len(content) - 1):
        whole.write_bytes(content[:n_bytes])
        assert "no backup of Vault, or only a part" in refused(whole)


def test_a_changed_byte_anywhere_is_noticed(whole: Path) -> None:
    content = whole.read_bytes()
    for place in range(64, len(content), len(content) // 50):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "backup" in refused(whole)


def test_state_that_does_not_fit_its_checksum_is_refused(tmp_path: Path) -> None:
    wrong = members() | {"state.bin": STATE[:-1] + b"x"}
    assert "damaged" in refused(write_archive(tmp_path / "wrong", wrong))


@pytest.mark.parametrize("name", ["meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"])
def test_a_snapshot_without_one_of_its_members_is_refused(tmp_path: Path, name: str) -> None:
    left = members()
    del left[name]
    assert "only a part" in refused(write_archive(tmp_path / "part", left))


def test_other_archives_and_other_files_are_refused(tmp_path: Path) -> None:
    assert "no backup" in refused(write_archive(tmp_path / "a", {"letter.txt": b"dear"}))
    assert "no backup" in refused(write_archive(tmp_path / "b", members() | {"more": b""}))
    (tmp_path / "c").write_bytes(gzip.compress(b"no archive at all" * 100))
    assert "no backup" in refused(tmp_path / "c")
    (tmp_path / "d").write_text("KME_ID=kme-1\n" * 100)
    assert "no backup" in refused(tmp_path / "d")


@pytest.mark.parametrize("meta", [b"", b"{}", b"[]", b'{"Index": "7"}', b"\xff"])
def test_a_snapshot_that_does_not_say_from_when_it_is_is_refused(
    tmp_path: Path, meta: bytes
) -> None:
    odd = write_archive(tmp_path / "odd", members(meta=meta))
    assert "does not say from when" in refused(odd)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent")
    assert "directory" in refused(tmp_path)


def test_memory_does_not_grow_with_the_snapshot(tmp_path: Path) -> None:
    large = write_archive(tmp_path / "large", members(bytes(64 << 20)))
    tracemalloc.start()
    check_snapshot(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
