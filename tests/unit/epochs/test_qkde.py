"""kme.epochs.qkde: drivers are found by name, and report in lines."""

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kme.epochs.qkde import ENTRY_POINT_GROUP, LinkJob, StageReport, find_driver
from kme.errors import SettingsError, StageError


def test_a_report_reads_back_as_it_was_written() -> None:
    report = StageReport("pfind", 1.25, {"offset_ns": 5123.5, "log10_p_value": -300.0})
    assert StageReport.from_line(report.to_line()) == report
    assert "\n" not in report.to_line()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[1]",
        '{"stage": "x", "duration_s": "y"}',
        "null",
        '{"stage": "x", "duration_s": 1, "facts": {"bits": [1]}}',
        '{"stage": "x", "duration_s": 1, "facts": 1}',
        '{"stage": "x", "duration_s": 1' + 400 * "0" + ', "facts": {}}',
        50_000 * "[",
    ],
)
def test_what_is_no_report_is_said_to_be_none(line: str) -> None:
    with pytest.raises(StageError, match=r"link: the driver wrote no report"):
        StageReport.from_line(line)


@pytest.mark.parametrize("name", ["sim", "random"])
def test_installed_drivers_are_found_and_say_what_to_run(name: str, tmp_path: Path) -> None:
    command = find_driver(name).command(LinkJob((tmp_path / "a", tmp_path / "b"), tmp_path))
    assert Path(command[0]).exists()


def test_an_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no QKD driver is called 'laser'; installed: .*sim"):
        find_driver("laser")


def test_a_driver_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "kme.epochs.qkde:NoSuchDriver", ENTRY_POINT_GROUP)
    monkeypatch.setattr("kme.epochs.qkde.entry_points", lambda **_: EntryPoints([broken]))
    with pytest.raises(SettingsError, match=r"the QKD driver 'broken' cannot be loaded: .*NoSuch"):
        find_driver("broken")
