from pathlib import Path

import numpy as np
import pytest

from program_runs import refused, run, run_apart
from qkd_sim.events import Events
from qkd_sim.programs.esim import main

SCENARIOS = Path(__file__).parents[3] / "qkd-sim" / "scenarios"
START_TICKS = 1587318692304817123 * 8 % (1 << 49)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str | Path, ...]:
    return ("-F", tmp_path / "hec", "-f", tmp_path / "lec")


def both(folder: Path) -> tuple[Events, Events]:
    return Events.read(folder / "hec"), Events.read(folder / "lec")


def elapsed(events: Events) -> np.ndarray:
    return events.times_ticks - START_TICKS


def test_letters_alone_mean_the_ideal_link_of_the_c_program(
    tmp_path: Path, files: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(main, *files, "-n", "1e4", "-e", "1e3", "-o", "1", "-r")
    hec, lec = both(tmp_path)
    assert abs(len(hec) - 10_000) < 4 * 100
    np.testing.assert_array_equal(elapsed(lec), elapsed(hec) + 8)
    assert np.isin(hec.patterns, [1, 2, 4, 8]).all()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "simulated time: 10 s"
    assert said[1].startswith(f"high-count events: {len(hec)} in ")


def test_the_same_seed_gives_the_same_files_and_none_gives_others(
    tmp_path: Path, files: tuple[str | Path, ...]
) -> None:
    contents = []
    for options in (("-r",), ("-r",), ("-r", "-s", "5"), ("-s", "5", "-t", "0"), ("-t", "0"), ()):
        run(main, *files, "-n", "1000", "-q", *options)
        contents.append((tmp_path / "hec").read_bytes())
    assert contents[0] == contents[1]
    assert len(set(contents)) == 5


def test_letters_override_the_scenario(tmp_path: Path, files: tuple[str | Path, ...]) -> None:
    lab = ("--scenario", SCENARIOS / "lab.toml", "-r", "-q")
    scenario = (*lab, "--duration-s", "0.2")
    run(main, *files, *scenario)
    hec, lec = both(tmp_path)
    assert abs(len(lec) / len(hec) - 0.64) < 0.02
    run(main, *files, *scenario, "-l", "0.9", "-L", "0", "--dark-rate-hz", "0", "-o", "0", "-d0")
    hec, lec = both(tmp_path)
    # 2e6 pairs a second for 0.2 s; efficiencies 0.55 and 0.50, some dead time, afterpulses
    assert len(hec) == pytest.approx(2e6 * 0.2 * 0.55, rel=0.05)
    assert len(lec) == pytest.approx(2e6 * 0.2 * 0.1 * 0.50, rel=0.03)
    run(main, *files, *lab, "-n", "1e4", "-e", "1e5", "-u", "--jitter-fwhm-ps", "0")
    p = 0.55 * 10**-0.15
    n_afterpulses_and_dark_counts = 0.005 * 1e4 * p + 0.1 * 4 * 300
    expected = 1e4 * p + n_afterpulses_and_dark_counts
    assert abs(len(both(tmp_path)[0]) - expected) < 4 * np.sqrt(expected)


def test_offsets_drifts_and_distances_shift_the_times(
    tmp_path: Path, files: tuple[str | Path, ...]
) -> None:
    ideal = ("-n", "1000", "-u", "-r", "-q")
    run(main, *files, *ideal)
    plain = elapsed(both(tmp_path)[0])
    run(main, *files, *ideal, "-O", "100", "-D", "299.792458")
    hec, lec = (elapsed(events) for events in both(tmp_path))
    np.testing.assert_array_equal(hec, plain + 800 + 8000)
    np.testing.assert_array_equal(lec, plain)
    run(main, *files, *ideal, "-o", "-50", "-d", "299.792458", "-c", "1e-6")
    lec = elapsed(both(tmp_path)[1])
    assert np.abs(lec - plain - (-400 + 8000 + 1e-6 * plain)).max() < 1.01


def test_errors_and_eavesdroppers_change_outcomes(
    tmp_path: Path, files: tuple[str | Path, ...]
) -> None:
    for options, qber in ((("-m", "0.1"), 0.1), (("--intercepted-fraction", "0.8"), 0.2)):
        run(main, *files, "-n", "4e4", "-r", "-q", *options)
        hec, lec = both(tmp_path)
        is_hv = np.isin(hec.patterns, [1, 4]) & np.isin(lec.patterns, [1, 4])
        is_error = hec.patterns[is_hv] == lec.patterns[is_hv]
        deviation = np.sqrt(qber * (1 - qber) / is_error.size)
        assert abs(float(is_error.mean()) - qber) < 4 * deviation


def test_dead_time_is_an_option(tmp_path: Path, files: tuple[str | Path, ...]) -> None:
    run(main, *files, "-n", "2e4", "-r", "-q", "--dead-time-ns", "100000")
    hec = both(tmp_path)[0]
    own = elapsed(hec)[hec.patterns == 1]
    assert np.diff(own).min() >= 800_000


def test_the_log_goes_where_it_is_told_and_may_hold_the_scenario(
    tmp_path: Path, files: tuple[str | Path, ...]
) -> None:
    ended = run_apart(
        *("-m", "qkd_sim.programs.esim", *files, "-n", "100", "-G", tmp_path / "log", "-v")
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert (
        "scenario: Scenario(source=Source(pair_rate_hz=100000.0" in (tmp_path / "log").read_text()
    )


def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, files: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text("[source]\npair_rate_khz = 5\n")
    said = refused(main, capsys, *files, "--scenario", tmp_path / "x.toml")
    assert said.endswith("x.toml: [source] pair_rate_khz is unknown (did you mean pair_rate_hz?)")
    assert "visibility_hv is -0.2" in refused(main, capsys, *files, "-m", "0.6")
    assert "transmission is 0" in refused(main, capsys, *files, "-l", "1")
    assert "pair_rate_hz is 0" in refused(main, capsys, *files, "-e", "0")
    assert "not allowed with" in refused(main, capsys, *files, "-n5", "--duration-s=1", code=2)
    assert "'much' is not a number" in refused(main, capsys, *files, "-e", "much", code=2)
    said = refused(main, capsys, "-F", tmp_path / "a", "-f", tmp_path / "no" / "b", "-n", "10")
    assert said.endswith("cannot be written: No such file or directory")
