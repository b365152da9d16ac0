"""`kme demo`: the main job once, its figures, its errors."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qkd_sim.scenarios import FOLDER
from small_scenario import small_scenario


def _demo(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kme", "demo", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _digest(chain: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(chain.rglob("*")):
        if path.is_file():
            whole.update(f"{path.relative_to(chain)} {path.stat().st_size}\n".encode())
            whole.update(path.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    """Run the demo with a seed; return its folder, its figures and what people saw."""
    folder = tmp_path_factory.mktemp("demo")
    scenario = small_scenario(folder)
    out = folder / "out"
    done = _demo("--json", "--seed", "7", "--scenario", str(scenario), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_summary_holds_all_figures(seeded: tuple[Path, dict[str, object], str]) -> None:
    _, figures, _ = seeded
    assert figures["equal"] is True
    assert isinstance(figures["qber"], float)
    assert 0.02 < figures["qber"] < 0.04
    assert isinstance(figures["efficiency"], float)
    assert 1.0 < figures["efficiency"] <= 1.10
    assert isinstance(figures["secret_bits"], int)
    assert isinstance(figures["sifted_bits"], int)
    assert 10_000 < figures["secret_bits"] < figures["sifted_bits"]
    assert figures["key_bits"] == 256
    assert isinstance(figures["key_id"], str)
    assert isinstance(figures["stages"], dict)
    assert list(figures["stages"])[:9] == [
        "certificates", "esim", "chopper2", "chopper", "getrate", "pfind", "costream", "splicer",
        "errcd",
    ]  # fmt: skip
    assert "key" not in figures


def test_a_seeded_run_says_that_its_key_is_no_secret(
    seeded: tuple[Path, dict[str, object], str],
) -> None:
    _, figures, shown = seeded
    assert figures["is_secret"] is False
    assert "NO SECRET" in shown


def test_the_same_seed_gives_the_same_chain_byte_for_byte(
    seeded: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    out, _, _ = seeded
    again = tmp_path / "again"
    done = _demo(
        "--seed", "7", "--out", str(again), "--scenario", str(out.parent / "small.toml"),
        "--show-key",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _digest(again / "chain") == _digest(out / "chain")
    [shown] = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["key"]]
    assert len(shown[1]) == 44


def test_an_eavesdropper_is_noticed_and_no_key_is_made() -> None:
    done = _demo("--json", "--scenario", str(FOLDER / "intercept-resend.toml"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kme: errcd: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[source]\npair_rate_khz = 5\n", "did you mean pair_rate_hz"),
        ("[source\n", "not TOML"),
    ],
)
def test_a_wrong_scenario_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    done = _demo("--scenario", str(path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = done.stderr.strip().splitlines()
    assert str(path) in line
    assert words in line


def test_a_folder_that_is_not_empty_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = _demo("--out", str(tmp_path))
    assert done.returncode == 1
    assert "is not empty; name a new folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_signal_ends_it_and_leaves_no_key_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kme", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("esim"):
        assert process.poll() is None
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip() == "kme: demo: was stopped by a signal before its end"
    assert list(tmp_path.iterdir()) == []
