"""The master key's file: made once, read by its owner only, wrong ones refused in one line."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kme.errors import SettingsError
from kme.store.sqlite import create_master_key, read_master_key


def test_a_key_is_made_once_and_read_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key = create_master_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 32
    assert create_master_key(path) == key == read_master_key(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


def test_two_keys_differ(tmp_path: Path) -> None:
    assert create_master_key(tmp_path / "1") != create_master_key(tmp_path / "2")


def test_of_many_that_make_it_at_once_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(create_master_key, [tmp_path / "master.key"] * 32))
    assert all(key == keys[0] for key in keys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


def test_a_key_made_by_another_process_in_the_meantime_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.key"
    link = os.link

    def slow_link(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        create_master_key(path)
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    assert create_master_key(path) == read_master_key(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["master.key"]


@pytest.mark.parametrize("n_bytes", [0, 31, 33, 1 << 20])
def test_a_key_of_a_wrong_size_is_refused(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(bytes(n_bytes))
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"master\.key: a master key is a file of 32 bytes"):
        create_master_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o611])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    create_master_key(path)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"mode {mode:o}"):
        read_master_key(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_master_key(tmp_path / "none")
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(SettingsError, match="folder: "):
        read_master_key(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsError, match="32 bytes"):
        read_master_key(tmp_path / "pipe")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: No such file"):
        create_master_key(tmp_path / "none" / "master.key")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SettingsError, match="No space left"):
        create_master_key(tmp_path / "master.key")
    assert list(tmp_path.iterdir()) == []
