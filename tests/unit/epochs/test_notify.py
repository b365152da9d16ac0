"""kme.epochs.notify: lines come whole, garbage is passed over, and nobody waits for ever."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from kme.epochs.notify import MAX_LINE_BYTES, Notice, NoticeFifo, NoticeLines, send
from kme.errors import InputError, UnavailableError
from kme.ids import Epoch, KmeId, SourceId

NOTICE = Notice(KmeId("kme-2"), SourceId("qkd-1"), Epoch(0xC75120E9))


def notices(n: int) -> list[Notice]:
    return [Notice(KmeId("kme-2"), SourceId("qkd-1"), Epoch(number)) for number in range(n)]


def heard(fifo: NoticeFifo, lines: NoticeLines) -> list[Notice | None]:
    said: list[Notice | None] = []
    while data := fifo.read():
        said.extend(lines.feed(data))
    return said


# Lines


def test_a_notice_is_a_line_of_ids_and_an_epoch() -> None:
    assert NOTICE.to_line() == b"kme-2/qkd-1/c75120e9\n"
    assert Notice.from_line(b"kme-2/qkd-1/c75120e9") == NOTICE


def test_the_longest_notice_is_shorter_than_the_limit_and_the_limit_than_what_never_mixes() -> None:
    longest = Notice(KmeId("k" * 63), SourceId("s" * 32), Epoch(0xFFFFFFFF)).to_line()
    assert len(longest) <= MAX_LINE_BYTES < 512
    assert list(NoticeLines().feed(longest)) != [None]


@pytest.mark.parametrize(
    "line",
    [
        b"../qkd-1/c75120e9", b"kme-2/../c75120e9", b"/etc/passwd", b"kme-2//c75120e9",
        b"kme-2/qkd-1/../../x", b"kme-2/qkd-1/c75120e", b"kme-2/qkd-1/C75120E9", b"kme-2/qkd-1",
        b"kme-2/qkd-1/c75120e9/", b" kme-2/qkd-1/c75120e9", b"kme-2/qkd-1/c75120e9\r",
        b"kme-2/qkd-1/c75120e9\0", "kme-2/qkd-1/c75120é9".encode(), b"\xff\xfe", b"x" * 100,
    ],
)  # fmt: skip
def test_any_other_line_is_no_notice(line: bytes) -> None:
    assert list(NoticeLines().feed(line + b"\n")) == [None]


def test_lines_may_come_in_any_pieces() -> None:
    text = b"".join(notice.to_line() for notice in notices(50)) + b"\n\n"
    for size in (1, 2, 7, 30, 4096):
        lines = NoticeLines()
        said = [n for i in range(0, len(text), size) for n in lines.feed(text[i : i + size])]
        assert said == notices(50)


def test_an_endless_line_takes_no_memory_and_the_next_line_counts() -> None:
    lines = NoticeLines()
    for _ in range(1000):
        assert list(lines.feed(b"x" * 4096)) == []
        assert len(lines._rest) <= MAX_LINE_BYTES + 1
    assert list(lines.feed(b"\n" + NOTICE.to_line())) == [None, NOTICE]


# The FIFO


def test_the_fifo_has_its_mode_whatever_the_umask_and_the_group_of_its_folder(
    tmp_path: Path,
) -> None:
    before = os.umask(0o777)
    try:
        fifo = NoticeFifo(tmp_path / "fifo")
        fifo.open()
    finally:
        os.umask(before)
    found = (tmp_path / "fifo").lstat()
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o620
    assert found.st_gid == tmp_path.stat().st_gid
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
    fifo.close()
    fifo.close()


def test_writers_come_and_go_and_every_line_of_each_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    fifo = NoticeFifo(path)
    fifo.open()
    assert fifo.read() == b""
    lines = NoticeLines()
    for _ in range(3):
        send(path, notices(20), 1.0)
        assert heard(fifo, lines) == notices(20)
    assert fifo.read() == b""
    fifo.close()


def test_lines_of_several_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    fifo = NoticeFifo(path)
    fifo.open()
    n_writers, n_lines = 4, 2000
    writers = [
        threading.Thread(target=send, args=(path, notices(n_lines), 20.0)) for _ in range(n_writers)
    ]
    for writer in writers:
        writer.start()
    lines = NoticeLines()
    said: list[Notice | None] = []
    while len(said) < n_writers * n_lines:
        said += heard(fifo, lines)
    for writer in writers:
        writer.join()
    fifo.close()
    assert None not in said
    assert {said.count(notice) for notice in notices(3)} == {n_writers}


def test_a_fifo_of_an_earlier_start_is_kept_for_those_who_wait_at_it(tmp_path: Path) -> None:
    fifo = NoticeFifo(tmp_path / "fifo")
    fifo.open()
    inode = (tmp_path / "fifo").lstat().st_ino
    fifo.open()
    assert (tmp_path / "fifo").lstat().st_ino == inode
    fifo.close()


@pytest.mark.parametrize("what", ["nothing", "file", "link", "mode"])
def test_what_is_no_fifo_of_ours_is_noticed_and_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "fifo"
    fifo = NoticeFifo(path)
    fifo.open()
    assert fifo.is_in_place()
    path.unlink()
    if what == "file":
        path.write_bytes(b"kme-2/qkd-1/c75120e9\n")
    elif what == "link":
        path.symlink_to("/dev/null")
    elif what == "mode":
        os.mkfifo(path, 0o600)
    assert not fifo.is_in_place()
    fifo.open()
    assert fifo.is_in_place()
    assert stat.S_IMODE(path.lstat().st_mode) == 0o620
    send(path, [NOTICE], 1.0)
    assert heard(fifo, NoticeLines()) == [NOTICE]
    fifo.close()


def test_a_place_where_no_fifo_can_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the FIFO cannot be made or opened: No such file"):
        NoticeFifo(tmp_path / "missing" / "fifo").open()
    (tmp_path / "fifo").mkdir()
    with pytest.raises(InputError, match="the FIFO cannot be made or opened: Is a directory"):
        NoticeFifo(tmp_path / "fifo").open()
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


# Nobody waits for ever


def test_a_fifo_that_nobody_reads_is_said_after_a_while(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnavailableError, match="nobody reads the FIFO; start the watcher"):
        send(tmp_path / "fifo", [NOTICE], 0.15)


def test_no_fifo_at_all_and_a_file_in_its_place_are_said(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="there is no FIFO: No such file"):
        send(tmp_path / "fifo", [NOTICE], 0)
    (tmp_path / "fifo").write_bytes(b"")
    with pytest.raises(UnavailableError, match="is no FIFO; start the watcher"):
        send(tmp_path / "fifo", [NOTICE], 0)
    assert (tmp_path / "fifo").read_bytes() == b""


def test_a_reader_that_comes_late_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = NoticeFifo(tmp_path / "fifo")
    monkeypatch.setattr(time, "sleep", lambda _s: fifo.open())
    send(tmp_path / "fifo", [NOTICE], 20.0)
    assert heard(fifo, NoticeLines()) == [NOTICE]
    fifo.close()


def test_a_reader_that_reads_no_more_is_given_up_and_how_far_it_went_is_said(
    tmp_path: Path,
) -> None:
    fifo = NoticeFifo(tmp_path / "fifo")
    fifo.open()
    with pytest.raises(UnavailableError, match=r"\d+ of 9999 files announced; .* reads no more"):
        send(tmp_path / "fifo", notices(9999), 0.05)
    fifo.close()


def test_a_reader_that_ends_meanwhile_is_said(tmp_path: Path) -> None:
    fifo = NoticeFifo(tmp_path / "fifo")
    fifo.open()

    def many() -> list[Notice]:
        return notices(9999)

    failed: list[str] = []

    def write() -> None:
        try:
            send(tmp_path / "fifo", many(), 20.0)
        except UnavailableError as error:
            failed.append(error.message)

    writer = threading.Thread(target=write)
    writer.start()
    while not fifo.read():
        pass
    fifo.close()
    writer.join()
    assert "the watcher ended" in failed[0]
