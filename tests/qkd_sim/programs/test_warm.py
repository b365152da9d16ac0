"""qkd_sim.programs.warm: its error is one line (what it runs is tested with `run`)."""

import tempfile
from pathlib import Path

import pytest

from program_runs import refused
from qkd_sim.programs import warm


def test_without_a_place_for_its_files_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert refused(warm.main, capsys).startswith(f"qkd-sim warm: {tmp_path / 'missing'}/qkd-sim-")
