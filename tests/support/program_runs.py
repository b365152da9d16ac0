"""program_runs - run a stage program as a user does, in this process or in one of its own."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Main = Callable[[Sequence[str] | None], None]


def run(main: Main, *arguments: str | Path) -> None:
    """Run a program that is expected to end well."""
    main([str(argument) for argument in arguments])


def refused(
    main: Main, capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 1
) -> str:
    """Run a program that is expected to fail, and return the one line that it says why."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 1:
        assert said.count("\n") == 1
    return said.rstrip("\n").splitlines()[-1]


def run_apart(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``python`` with these arguments in a process of its own."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
