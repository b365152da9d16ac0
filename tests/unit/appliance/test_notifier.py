"""kme.appliance.notifier: a count on standard output, or one line that says what to do."""

from pathlib import Path

import pytest

from kme.appliance.notifier import main
from kme.epochs.notify import NoticeFifo


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "KME_ID": "kme-1", "KME_LINKS": "kme-2/qkd-1", "KME_EPOCHS": str(tmp_path / "in"),
        "KME_FIFO": str(tmp_path / "fifo"), "KME_NOTIFIER__WAIT_S": "0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / "in" / "kme-2" / "qkd-1").mkdir(parents=True)
    return tmp_path


def test_files_are_announced_and_counted(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c7000001", "c7000000"):
        (site / "in" / "kme-2" / "qkd-1" / name).touch()
    fifo = NoticeFifo(site / "fifo")
    fifo.open()
    main()
    assert capsys.readouterr().out == "2 epoch files announced\n"
    assert fifo.read() == b"kme-2/qkd-1/c7000000\nkme-2/qkd-1/c7000001\n"
    fifo.close()


def test_nothing_to_announce_is_fine(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out == "0 epoch files announced\n"


def test_nobody_who_listens_is_an_error(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "in" / "kme-2" / "qkd-1" / "c7000000").touch()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("notifier: ")
