"""kme.files: a file is whole or not there."""

import os
import stat
from pathlib import Path

import pytest

from kme.errors import InputError
from kme.files import set_aside, write_whole


def test_a_written_file_has_its_content_and_mode_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "00004f87", b"data", mode=0o600)
    assert (tmp_path / "00004f87").read_bytes() == b"data"
    assert stat.S_IMODE((tmp_path / "00004f87").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["00004f87"]


def test_an_older_file_is_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old and long")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_failing_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"file: cannot be written: No space left on device"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "missing" / "file", b"")


def test_bad_files_are_moved_aside_and_none_is_overwritten(tmp_path: Path) -> None:
    moved = []
    for content in (b"one", b"two", b"three"):
        (tmp_path / "00004f87").write_bytes(content)
        moved.append(set_aside(tmp_path / "00004f87"))
    assert [path.read_bytes() for path in moved] == [b"one", b"two", b"three"]
    assert not (tmp_path / "00004f87").exists()
    assert {path.parent for path in moved} == {tmp_path / "aside"}


@pytest.mark.parametrize(("folder", "aside"), [(0o700, 0o700), (0o755, 0o700), (0o2770, 0o2770)])
def test_what_is_set_aside_may_be_seen_by_those_who_share_the_folder(
    tmp_path: Path, folder: int, aside: int
) -> None:
    tmp_path.chmod(folder)
    (tmp_path / "00004f87").write_bytes(b"bad")
    moved = set_aside(tmp_path / "00004f87")
    assert stat.S_IMODE(moved.parent.stat().st_mode) == aside
