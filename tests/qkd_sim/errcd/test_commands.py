import os
from pathlib import Path

import pytest

from kme.ids import Epoch
from qkd_sim.errcd.commands import Command, CommandSource, parse_block, parse_command
from qkd_sim.errors import InputError


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("4f87 4", Command(Epoch(0x4F87), 4)),
        ("0x00004f87 1", Command(Epoch(0x4F87), 1)),
        ("c74e4f86 12 0.05", Command(Epoch(0xC74E4F86), 12, 0.05)),
        ("4F87 4 0.05 2.7", Command(Epoch(0x4F87), 4, 0.05)),
    ],
)
def test_a_command_names_epochs_and_maybe_an_error_rate(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    "line",
    ["4f87", "x 4", "4f87 0", "4f87 -1", "4f87 4 x", "4f87 4 0.5", "4f87 4 nan", "4f87 ²",
     "123456789 4", "4f87 99999999999999999999", "4f87 4 .1 2 3", "4f87 70000"],
)  # fmt: skip
def test_what_is_no_command_is_refused(line: str) -> None:
    with pytest.raises(InputError):
        parse_command(line)


def test_a_block_is_named_by_epoch_and_number() -> None:
    assert parse_block("4f87:4") == Command(Epoch(0x4F87), 4)
    for text in ("4f87", "4f87:", ":4", "4f87:0", "4g:1"):
        with pytest.raises(InputError):
            parse_block(text)


def test_a_file_of_commands_ends(tmp_path: Path) -> None:
    path = tmp_path / "commands"
    path.write_text("4f87 4\n\n4f8b 2")
    source = CommandSource(path)
    lines: list[str] = []
    while not source.is_at_end or not lines:
        while (line := source.next_line()) is not None:
            lines.append(line)
    assert lines == ["4f87 4", "", "4f8b 2"]
    assert source.next_line() is None
    source.close()


def test_a_fifo_of_commands_goes_on_when_its_writer_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "commands"
    os.mkfifo(path)
    source = CommandSource(path)
    assert source.next_line() is None
    for command in ("4f87 4\n4f8", "b 2\n"):
        with path.open("w") as writer:
            writer.write(command)
        while (line := source.next_line()) is not None:
            assert parse_command(line).n_epochs in {2, 4}
    assert not source.is_at_end
    source.close()


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "commands"
    path.write_bytes(b"4" * 20_000)
    source = CommandSource(path)

    def read_on() -> None:
        for _ in range(10):
            source.next_line()

    with pytest.raises(InputError, match="more than 4096"):
        read_on()
    source.close()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        CommandSource(tmp_path / "nothing-here")
