"""The canary: run the demo at debug level and search all that it wrote for every key."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from kme.epochs.finalkey import read_final_key
from kme.ids import KmeId
from kme.pair import KME_IDS
from kme.store.sqlite.masterkey import read_master_key

STRETCH_BYTES = 16
"""So many bytes in a row of a secret do not occur by chance."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo with all its files kept; return the folder and what it printed."""
    out = tmp_path_factory.mktemp("canary") / "a demo"
    done = subprocess.run(
        [sys.executable, "-m", "kme", "demo", "--json", "--out", str(out), "--log-level", "DEBUG"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout + done.stderr


def _secrets(out: Path) -> list[bytes]:
    """Return stretches of all that is secret: final keys in every 16 bytes, and master keys."""
    found = []
    for path in sorted((out / "chain").glob("*/final/*")):
        key = read_final_key(path).key.reveal()
        found += [key[i : i + STRETCH_BYTES] for i in range(0, len(key) - STRETCH_BYTES, 8)]
    found += [read_master_key(out / kme / "master.key").reveal()[:STRETCH_BYTES] for kme in KME_IDS]
    return found


def _spellings(stretch: bytes) -> list[bytes]:
    """Return a stretch raw, in both cases of hex, and in base64 at each of three offsets."""
    spelt = [stretch, stretch.hex().encode(), stretch.hex().upper().encode()]
    for skipped in range(3):
        part = stretch[skipped : skipped + (len(stretch) - skipped) // 3 * 3]
        spelt.append(base64.b64encode(part))
    return spelt


def test_no_key_is_in_any_log_or_on_the_screen(run: tuple[Path, str]) -> None:
    out, printed = run
    secrets = _secrets(out)
    assert len(secrets) > 1000
    logs = sorted(out.glob("*.log"))
    assert {path.name for path in logs} == {"kme-a.log", "kme-b.log", "link.log"}
    text = printed.encode() + b"".join(path.read_bytes() for path in logs)
    assert b"final key taken in" in text, "the logs are not at debug level"
    for stretch in secrets:
        for spelling in _spellings(stretch):
            assert spelling not in text


def test_keys_are_sealed_at_rest_in_both_stores(run: tuple[Path, str]) -> None:
    out, _ = run
    for kme in KME_IDS:
        files = sorted((out / kme).glob("store*"))
        assert files
        data = b"".join(path.read_bytes() for path in files)
        for stretch in _secrets(out):
            assert stretch not in data


def test_ingested_files_are_gone_and_folders_are_private(run: tuple[Path, str]) -> None:
    out, _ = run
    for kme in KME_IDS:
        assert list((out / kme / "epochs").iterdir()) == []
        for folder in (out / kme, out / kme / "epochs"):
            assert folder.stat().st_mode & 0o077 == 0
    for key in out.glob("certs/**/*.key"):
        assert key.stat().st_mode & 0o077 == 0, key


def test_no_key_is_in_the_command_line_or_environment_of_a_kme() -> None:
    # The command of a KME names its configuration file and nothing else.
    from kme.pair import KmePlace
    from kme.supervisor import kme_child

    place = KmePlace(KmeId("kme-a"), 1, 2, Path("folder/kme-a"))
    assert list(kme_child(place).command)[1:] == [
        "-m", "kme", "run", "--config", "folder/kme-a.toml", "--stop-with-input",
    ]  # fmt: skip
