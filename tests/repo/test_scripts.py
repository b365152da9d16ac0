"""scripts/: each is executable, says how it is called, and is sound for the shell that runs it."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
SHELLS = [
    path
    for path in (*SCRIPTS, ROOT / ".ci" / "run")
    if re.match(r"#!.*\b(ba)?sh\b", path.read_text())
]
_HEAD_LINES = 12


def _name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
class TestScript:
    def test_it_is_executable_and_names_its_interpreter(self, path: Path) -> None:
        assert path.stat().st_mode & 0o111
        assert path.read_text().startswith("#!/")

    def test_it_says_how_it_is_called(self, path: Path) -> None:
        head = "\n".join(path.read_text().splitlines()[1:_HEAD_LINES])
        assert re.search(rf"^(?:#|\s) +(?:\S+=\S+ )*(?:scripts/)?{path.name}\b", head, re.MULTILINE)


@pytest.mark.parametrize("path", SHELLS, ids=_name)
class TestShellScript:
    def test_its_own_shell_can_read_it(self, path: Path) -> None:
        shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
        subprocess.run([shell, "-n", path], check=True)

    def test_it_ends_at_the_first_error_and_knows_all_its_variables(self, path: Path) -> None:
        assert re.search(r"^set -eu(o pipefail)?$", path.read_text(), re.MULTILINE)


def test_every_script_that_is_not_shell_is_python() -> None:
    for path in set(SCRIPTS) - set(SHELLS):
        ast.parse(path.read_text())


def test_every_script_is_called_or_explained_somewhere() -> None:
    papers = [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *SCRIPTS]
    for script in SCRIPTS:
        others = "".join(path.read_text() for path in papers if path != script)
        assert script.name in others, script
