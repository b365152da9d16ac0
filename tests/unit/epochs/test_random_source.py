"""kme.epochs.random_source: equal bits at both ends, no epoch twice."""

import subprocess
from pathlib import Path

import pytest

from kme.epochs.finalkey import read_final_key
from kme.epochs.qkde import LinkJob, StageReport
from kme.epochs.random_source import (
    MAX_WAITING_FILES,
    RandomDriver,
    RandomSource,
    main,
)
from kme.epochs.used import UsedEpochs
from kme.errors import SettingsError
from kme.ids import Epoch


@pytest.fixture
def source(tmp_path: Path) -> RandomSource:
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    return RandomSource(folders, tmp_path / "last-epoch")


def test_both_folders_get_equal_files_and_fresh_ones_each_time(source: RandomSource) -> None:
    seen = set()
    for _ in range(3):
        epoch = source.feed()
        one, other = (read_final_key(folder / epoch.file_name) for folder in source.final_keys)
        assert one == other
        seen.add(one.key.reveal())
    assert len(seen) == 3


def test_no_epoch_comes_twice_also_when_the_clock_went_back(source: RandomSource) -> None:
    source.state.write_text("fffffff0\n")
    assert [source.feed() for _ in range(2)] == [Epoch(0xFFFFFFF1), Epoch(0xFFFFFFF2)]


def test_it_pauses_while_a_kme_does_not_take_its_files(source: RandomSource) -> None:
    for _ in range(MAX_WAITING_FILES):
        assert not source.is_full()
        source.feed()
    assert source.is_full()


def test_the_driver_refuses_a_seed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="takes no seed"):
        RandomDriver().command(LinkJob((tmp_path, tmp_path), tmp_path, seed=7))


def test_the_program_feeds_once_and_reports(
    source: RandomSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--work", str(tmp_path), *map(str, source.final_keys)])
    report = StageReport.from_line(capsys.readouterr().out)
    assert report.facts["is_quantum"] is False
    assert all((folder / str(report.facts["epoch"])).exists() for folder in source.final_keys)


def test_the_program_says_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(SystemExit):
        main(["--work", str(tmp_path), missing, missing])
    assert capsys.readouterr().err.startswith("random: ")


def test_the_continuous_program_goes_on_until_it_is_told_to_stop(source: RandomSource) -> None:
    work = source.state.parent / "work"
    job = LinkJob(source.final_keys, work, is_continuous=True)
    with subprocess.Popen(
        RandomDriver().command(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        epochs = {StageReport.from_line(child.stdout.readline().decode()).facts["epoch"]
                  for _ in range(2)}  # fmt: skip
        child.terminate()
        assert child.wait(timeout=20) == 0
    assert len(epochs) == 2


def test_it_ends_with_its_parent(source: RandomSource) -> None:
    job = LinkJob(source.final_keys, source.state.parent / "work", is_continuous=True)
    with subprocess.Popen(
        RandomDriver().command(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.close()
        assert child.wait(timeout=20) == 0


def test_it_ends_quietly_when_nobody_reads_its_reports(source: RandomSource) -> None:
    job = LinkJob(source.final_keys, source.state.parent / "work", is_continuous=True)
    with subprocess.Popen(
        RandomDriver().command(job),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(timeout=20) == 1
        assert child.stderr.read() == b""


def test_two_of_them_in_one_folder_are_refused(
    source: RandomSource, capsys: pytest.CaptureFixture[str]
) -> None:
    with UsedEpochs(source.state).alone(), pytest.raises(SystemExit):
        main(["--work", str(source.state.parent), *map(str, source.final_keys)])
    assert "makes key there: stop it first" in capsys.readouterr().err
    assert not list(source.final_keys[0].iterdir())


def test_a_folder_that_cannot_be_made_is_said_in_one_line(
    source: RandomSource, capsys: pytest.CaptureFixture[str]
) -> None:
    source.state.write_text("")
    with pytest.raises(SystemExit):
        main(["--work", str(source.state / "below"), *map(str, source.final_keys)])
    assert capsys.readouterr().err == f"random: {source.state / 'below'}: Not a directory\n"
