"""The models of the protocol hold, and each mistake planted in one is found."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "docs/protocol"
COMPILE = ("gcc", "-w", "-DNOREDUCE", "-DVECTORSZ=1024", "-DMEMLIM=1024", "-DNFAIR=3")

BUGS = {
    "pairing": {
        "BUG_OTHER_CONTENT": "sent[open_n]",
        "BUG_ALLOCATE_EARLY": "block[",
        "BUG_COMMIT_UNEQUAL": "odd",
        "BUG_ANSWER_BEFORE_DURABLE": "fate[",
        "LIVE BUG_NO_REPEAT": "acceptance cycle",
    },
    "drawing": {
        "BUG_ANSWER_BEFORE_CLAIM": "n_given[",
        "BUG_NO_CHECK_AND_SET": "n_given[",
        "BUG_CLOSE_LIVE_CLAIMS": "expired",
        "BUG_FRONTIER_AT_MARK": "expired",
        "BUG_ANSWER_BEFORE_DRAW": "n_delivered[",
        "BUG_DRAW_UNDONE": "n_delivered[",
        "LIVE BUG_DEAD_CLAIMS_STAY": "acceptance cycle",
    },
    "heartbeat": {
        "BUG_OLD_NONCE_COVERS": "n_given[",
        "BUG_NO_CHALLENGE": "was_restored",
        "BUG_CHALLENGES_STAY": "was_restored",
    },
    "restore": {
        "BUG_OLD_FLOORS": "n_",
        "BUG_OTHER_SIDE_ALLOCATES": "x.floor_draw",
        "BUG_NUMBER_AGAIN": "formed",
        "BUG_NO_CHALLENGE": "agreed!=incarnation",
        "BUG_STALE_AGREEMENT": "agreed!=incarnation",
    },
}
"""Of each model its planted mistakes, and what spin says that they break."""

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs spin and gcc (Debian packages of these names)",
)


def _check(model: str, switches: str, folder: Path) -> str:
    """Look through all states of a model, and return what was found."""
    path = MODELS / f"{model}.pml"
    defined = [f"-D{switch}" for switch in switches.split()]
    subprocess.run(["spin", *defined, "-a", path], cwd=folder, check=True, capture_output=True)
    is_live = "LIVE" in switches
    # Compiling takes longer than finding a planted mistake.
    kind = ["-O0" if "BUG_" in switches else "-O1", *([] if is_live else ["-DSAFETY"])]
    subprocess.run([*COMPILE, *kind, "-o", "pan", "pan.c"], cwd=folder, check=True)
    options = ["-a", "-f"] if is_live else []
    done = subprocess.run(
        ["./pan", *options, "-n", "-m100000", "-w20"], cwd=folder, check=True, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert "max search depth too small" not in done.stdout
    assert "MEMLIM" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("switches", ["", "LIVE"], ids=["safety", "liveness"])
@pytest.mark.parametrize("model", BUGS)
def test_the_model_holds(model: str, switches: str, tmp_path: Path) -> None:
    found = _check(model, switches, tmp_path)
    assert "errors: 0" in found, found


@pytest.mark.parametrize(
    ("model", "switches"), [(model, bug) for model, bugs in BUGS.items() for bug in bugs]
)
def test_a_planted_mistake_is_found(model: str, switches: str, tmp_path: Path) -> None:
    found = _check(model, switches, tmp_path)
    assert "errors: 1" in found, found
    first = found.partition("\n")[0]
    assert BUGS[model][switches] in first, first


def test_every_switch_in_the_models_is_tried() -> None:
    for model, bugs in BUGS.items():
        switches = set(re.findall(r"\bBUG_[A-Z_]*[A-Z]\b", (MODELS / f"{model}.pml").read_text()))
        assert switches == {bug.split()[-1] for bug in bugs}


def test_every_model_is_tried() -> None:
    assert {path.stem for path in MODELS.glob("*.pml")} == set(BUGS)
