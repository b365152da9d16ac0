"""qkd_sim.programs.warm: a short run of the whole link that leaves nothing behind."""

import tempfile
from pathlib import Path

import pytest
from program_runs import refused, run

from qkd_sim.programs import warm


def test_it_runs_the_whole_link_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(warm.main)
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_without_a_place_for_its_files_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert refused(warm.main, capsys).startswith(f"qkd-sim warm: {tmp_path / 'missing'}/qkd-sim-")
