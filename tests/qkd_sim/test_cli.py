import time
from pathlib import Path

import pytest

from photon_files import SET_A
from program_runs import refused, run_apart
from qkd_sim.cli import STAGES, main


def test_help_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, what in STAGES.items():
        assert f"  {name} " in said
        assert what in said


@pytest.mark.parametrize("wrong", [[], ["chop"], ["-x"]])
def test_what_is_no_stage_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(main, capsys, *wrong, code=2).startswith("qkd-sim: error: ")


@pytest.mark.parametrize("stage", ["chopper", "chopper2", "getrate", "splicer"])
def test_a_stages_help_is_its_own(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {stage} [-h]")


def test_a_stage_gets_the_options_behind_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["getrate", "-i", str(SET_A / "hec" / "events.raw"), "-n", "2", "-t", "0x100000000"])
    assert capsys.readouterr().out == "577\n538\n"


def test_the_module_is_the_program(tmp_path: Path) -> None:
    ended = run_apart("-m", "qkd_sim", "chopper2", "-O", tmp_path / "out")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([stage, "--help"] for stage in ("chopper", "chopper2", "getrate", "splicer"))],
)
def test_help_comes_without_the_compiler(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom qkd_sim.cli import main\n"
        f"try:\n    main({arguments!r})\n"
        "except SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('numba', 'numpy', 'scipy')))"
    )
    start = time.perf_counter()
    assert run_apart("-c", script).returncode == 0
    # about 0.05 s; generous, because the machine may be busy
    assert time.perf_counter() - start < 5
