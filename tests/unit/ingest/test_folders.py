"""kme.ingest.folders: folders are shared by their group, and only epochs' names count."""

import os
import stat
from pathlib import Path

import pytest

from kme.errors import InputError
from kme.ids import KmeId, SourceId
from kme.ingest.folders import epoch_names, make_shared

PEER, SOURCE = KmeId("kme-2"), SourceId("qkd-1")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_folder_is_made_for_the_group_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = make_shared(tmp_path, PEER, SOURCE)
    finally:
        os.umask(before)
    assert folder == tmp_path / "kme-2" / "qkd-1"
    assert mode_of(folder) == mode_of(folder.parent) == 0o2770


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "kme-2" / "qkd-1").mkdir(parents=True, mode=0o750)
    before = mode_of(tmp_path / "kme-2" / "qkd-1")
    folder = make_shared(tmp_path, PEER, SOURCE)
    assert mode_of(folder) == before


def test_what_cannot_be_a_shared_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder cannot be made: No such file"):
        make_shared(tmp_path / "missing", PEER, SOURCE)
    (tmp_path / "kme-2").mkdir()
    (tmp_path / "kme-2" / "qkd-1").touch()
    with pytest.raises(InputError, match="it must be a folder of mode 2770"):
        make_shared(tmp_path, PEER, SOURCE)


def test_only_names_of_epochs_that_are_no_folders_count(tmp_path: Path) -> None:
    for name in ("0000000a", ".0000000b.x", "0000000C", "0000000", "README"):
        (tmp_path / name).touch()
    (tmp_path / "0000000d").mkdir()
    assert epoch_names(tmp_path) == {"0000000a"}


def test_a_file_that_a_store_was_given_counts_under_its_epoch(tmp_path: Path) -> None:
    for name in (".given-0000000a", "0000000a", ".given-0000000b", ".given-README", ".given-"):
        (tmp_path / name).touch()
    (tmp_path / ".given-0000000c").mkdir()
    (tmp_path / ".given-.given-0000000d").touch()
    assert epoch_names(tmp_path) == {"0000000a", "0000000b"}
