import argparse

import pytest

from kme.errors import EpochFileError
from kme.ids import Epoch
from program_runs import run_apart
from qkd_sim.programs import options


def fail_with(error: BaseException) -> None:
    def work() -> None:
        raise error

    options.run("stage", work)


@pytest.mark.parametrize(("text", "number"), [("20359", 20359), ("0x4f87", 20359), ("0", 0)])
def test_an_epoch_is_decimal_or_hexadecimal(text: str, number: int) -> None:
    assert options.epoch(text) == Epoch(number)


@pytest.mark.parametrize("text", ["4f87", "-1", "0x100000000", "", "1.5"])
def test_what_is_no_epoch_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not an epoch"):
        options.epoch(text)


def test_whole_numbers_are_read_within_their_limits() -> None:
    read = options.integer(4, 32)
    assert [read("4"), read("0x20")] == [4, 32]
    for text, rule in (("3", "3 is not 4..32"), ("33", "33 is not"), ("x", "'x' is not a whole")):
        with pytest.raises(argparse.ArgumentTypeError, match=rule):
            read(text)
    with pytest.raises(argparse.ArgumentTypeError, match="-1 is not 0 or more"):
        options.integer(0)("-1")


def test_an_error_of_ours_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail_with(EpochFileError("file", 8, "is broken"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "stage: file: byte 8: is broken\n"


def test_an_error_of_the_system_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail_with(FileNotFoundError(2, "No such file or directory", "some/file"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "stage: some/file: No such file or directory\n"


def test_an_interrupt_ends_with_the_shells_code() -> None:
    with pytest.raises(SystemExit) as ended:
        fail_with(KeyboardInterrupt())
    assert ended.value.code == 130


def test_an_error_that_is_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        fail_with(ZeroDivisionError())


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    script = (
        "import os, sys; from qkd_sim.programs import options;"
        "r, w = os.pipe(); os.dup2(w, 1); os.close(w); os.close(r);"
        "options.run('stage', lambda: print('x' * 100))"
    )
    ended = run_apart("-c", script)
    assert (ended.returncode, ended.stderr) == (1, b"")
