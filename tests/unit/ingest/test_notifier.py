"""kme.ingest.notifier: every final file on disk is announced once, the oldest first."""

from pathlib import Path

import pytest

from ingest_scene import FrozenClock
from kme.epochs.notify import NoticeFifo
from kme.errors import InputError, UnavailableError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.notifier import announce, find_notices

LINKS = [(KmeId("kme-2"), SourceId("qkd-1")), (KmeId("kme-3"), SourceId("qkd-2"))]


def fill(root: Path, link: tuple[KmeId, SourceId], *epochs: int) -> Path:
    folder = root / link[0] / link[1]
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in epochs:
        (folder / Epoch(epoch).file_name).touch()
    return folder


def test_a_file_that_a_killed_process_left_is_announced_too(tmp_path: Path) -> None:
    folder = fill(tmp_path, LINKS[0], 1, 2)
    (folder / "00000001").rename(folder / ".given-00000001")
    found = find_notices(tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)))
    assert [n.epoch.number for n in found] == [1, 2]


def test_files_of_all_links_are_announced_oldest_first_over_a_turn_of_the_epochs(
    tmp_path: Path,
) -> None:
    fill(tmp_path, LINKS[0], 1, 0x1FFFE, 0xB0000004)
    fill(tmp_path, LINKS[1], 0x1FFFF, 0)
    found = find_notices(tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)))
    assert [(str(n.peer), n.epoch.number) for n in found] == [
        ("kme-2", 0x1FFFE), ("kme-3", 0x1FFFF), ("kme-3", 0), ("kme-2", 1), ("kme-2", 0xB0000004),
    ]  # fmt: skip


def test_unfinished_files_folders_and_links_that_are_not_configured_are_passed_over(
    tmp_path: Path,
) -> None:
    folder = fill(tmp_path, LINKS[0], 5)
    (folder / ".00000006.Xy12").touch()
    (folder / ".partial-00000007-ab").touch()
    (folder / "aside").mkdir()
    (folder / "00000008").mkdir()
    fill(tmp_path, (KmeId("kme-9"), SourceId("qkd-1")), 9)
    found = find_notices(tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)))
    assert [n.epoch.number for n in found] == [5]


def test_without_files_nobody_needs_to_listen(tmp_path: Path) -> None:
    assert announce(tmp_path / "fifo", tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)), 0) == 0


def test_the_count_is_returned_and_the_lines_are_on_the_fifo(tmp_path: Path) -> None:
    fill(tmp_path, LINKS[0], 1, 2, 3)
    fifo = NoticeFifo(tmp_path / "fifo")
    fifo.open()
    assert announce(tmp_path / "fifo", tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)), 1.0) == 3
    lines = b"kme-2/qkd-1/00000001\nkme-2/qkd-1/00000002\nkme-2/qkd-1/00000003\n"
    assert fifo.read() == lines
    fifo.close()


def test_files_that_nobody_listens_to_stay_and_that_is_said(tmp_path: Path) -> None:
    folder = fill(tmp_path, LINKS[0], 1)
    with pytest.raises(UnavailableError, match="there is no FIFO"):
        announce(tmp_path / "fifo", tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)), 0)
    assert [path.name for path in folder.iterdir()] == ["00000001"]


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "kme-2").mkdir()
    (tmp_path / "kme-2" / "qkd-1").touch()
    with pytest.raises(InputError, match="qkd-1: cannot be read: Not a directory"):
        find_notices(tmp_path, LINKS, FrozenClock(Epoch(0xB0000002)))
