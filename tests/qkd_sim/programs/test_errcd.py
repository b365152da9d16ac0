import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from errcd_parties import noisy_pair
from kme.epochs.finalkey import FinalKeyFile, read_final_key
from kme.ids import Epoch
from qkd_sim.packets import Type3
from qkd_sim.programs.errcd import main

START = 0x4F87
PROGRAM = (sys.executable, "-m", "qkd_sim.programs.errcd")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders, each with one side's raw keys of eight epochs at 3 %."""
    rng = np.random.default_rng(1)
    both = tmp_path / "hec", tmp_path / "lec"
    for side in both:
        (side / "raw").mkdir(parents=True)
        (side / "final").mkdir()
    for i in range(8):
        for side, key in zip(both, noisy_pair(rng, 4000 + i, 0.03), strict=True):
            Type3(Epoch(START + i), key, 1).write(side / "raw")
    return both


def folders(side: Path) -> list[str]:
    return ["-d", str(side / "raw"), "-f", str(side / "final"), "--timeout", "20"]


Result = tuple[int, str]


def finish(*programs: subprocess.Popen[str]) -> list[Result]:
    results = []
    for program in programs:
        try:
            _, errors = program.communicate(timeout=60)
        finally:
            program.kill()
        results.append((program.returncode, errors))
    return results


def start(*options: str, fd: int | None = None) -> subprocess.Popen[str]:
    inherited = () if fd is None else (fd,)
    return subprocess.Popen(
        [*PROGRAM, *options], pass_fds=inherited, stderr=subprocess.PIPE, text=True
    )


def run_over_socket(
    sides: tuple[Path, Path], alice: list[str], bob: list[str] | None = None
) -> list[Result]:
    """Run both as processes of their own, at the ends of a socket pair."""
    ends = socket.socketpair()
    programs = [
        start(*folders(side), "--fd", str(end.fileno()), *options, fd=end.fileno())
        for side, end, options in zip(sides, ends, (alice, bob or []), strict=True)
    ]
    for end in ends:
        end.close()
    return finish(*programs)


def final_keys(side: Path) -> dict[str, FinalKeyFile]:
    return {path.name: read_final_key(path) for path in sorted((side / "final").iterdir())}


def assert_equal_keys(sides: tuple[Path, Path], *names: str) -> None:
    hec, lec = (final_keys(side) for side in sides)
    assert list(hec) == list(lec) == list(names)
    for name in names:
        assert hec[name].key == lec[name].key
        assert hec[name].n_bits == lec[name].n_bits > 1000
        assert (sides[0] / "final" / name).read_bytes() == (sides[1] / "final" / name).read_bytes()


def test_two_processes_on_a_socket_make_the_same_final_keys(sides: tuple[Path, Path]) -> None:
    json_files = [str(side / "blocks.json") for side in sides]
    notify = [str(side / "notify") for side in sides]
    results = run_over_socket(
        sides,
        ["--block", "4f87:4", "--block", "4f8b:4", "--json", json_files[0], "-l", notify[0]],
        ["--json", json_files[1], "-l", notify[1], "-V", "2"],
    )
    assert results == [(0, ""), (0, "")]
    assert_equal_keys(sides, "00004f87", "00004f8b")
    hec, lec = (json.loads(Path(path).read_text()) for path in json_files)
    for block in (*hec, *lec):
        block.pop("seconds")
    assert hec == lec
    assert all(1 < block["efficiency"] < 1.2 for block in hec)
    assert Path(notify[0]).read_text() == "00004f87\n00004f8b\n"
    first = Path(notify[1]).read_text().splitlines()[0].split()
    assert first[:2] == ["00004f87", "16006"]
    assert int(first[2]) == hec[0]["final_bits"]


def test_commands_come_over_a_fifo_to_either_side(sides: tuple[Path, Path], tmp_path: Path) -> None:
    names = ("there", "back", "hec-commands", "lec-commands")
    pipes = {name: tmp_path / name for name in names}
    for path in pipes.values():
        os.mkfifo(path)
    there, back = str(pipes["there"]), str(pipes["back"])
    notes = [side / "notify" for side in sides]
    channels = (["-s", there, "-r", back, "-k"], ["-s", back, "-r", there])
    programs = [
        start(*folders(side), *channel, "-c", str(pipes[commands]), "-l", str(note))
        for side, channel, commands, note in zip(sides, channels, names[2:], notes, strict=True)
    ]
    try:
        for commands, command, name in (
            ("hec-commands", "4f87 4\n", "00004f87"),
            ("lec-commands", "4f8b 4 0.03\n", "00004f8b"),
        ):
            with pipes[commands].open("w") as writer:
                writer.write(command)
            for note in notes:
                wait_for(note, name, programs)
    finally:
        for program in programs:
            program.send_signal(signal.SIGTERM)
        finish(*programs)
    assert_equal_keys(sides, "00004f87", "00004f8b")
    assert not list((sides[0] / "raw").iterdir())
    assert len(list((sides[1] / "raw").iterdir())) == 8


def wait_for(note: Path, name: str, programs: list[subprocess.Popen[str]]) -> None:
    """Wait until a block is told of, the last thing that is done with it."""
    for _ in range(600):
        if note.exists() and name in note.read_text():
            return
        for program in programs:
            assert program.poll() is None, finish(*programs)
        with contextlib.suppress(subprocess.TimeoutExpired):
            programs[0].wait(0.1)
    pytest.fail(f"{name} did not come")


def test_a_run_without_any_key_fails_on_both_sides(sides: tuple[Path, Path]) -> None:
    results = run_over_socket(sides, ["--block", "4f87:8", "--qber-limit", "0.01"], [
        "--qber-limit", "0.01"
    ])  # fmt: skip
    for code, errors in results:
        assert code == 1
        assert "errcd: none of 1 blocks gave a key" in errors
        assert "Traceback" not in errors
    assert not final_keys(sides[0])
    assert not final_keys(sides[1])


def test_a_peer_that_dies_ends_the_other_with_one_line(sides: tuple[Path, Path]) -> None:
    ends = socket.socketpair()
    program = start(
        *folders(sides[0]), "--fd", str(ends[0].fileno()), "--block", "4f87:4", fd=ends[0].fileno()
    )
    ends[0].close()
    ends[1].recv(100)
    ends[1].close()
    ((code, errors),) = finish(program)
    assert code == 1
    assert errors.startswith("errcd: ")
    assert errors.count("\n") == 1


def test_options_without_effect_are_named(sides: tuple[Path, Path]) -> None:
    c_options = [
        "-q",
        "x",
        "-Q",
        "y",
        "-J",
        "0.01",
        "-i",
        "-I",
        "-E",
        "0.04",
        "-e",
        "1",
        "-B",
        "1e-9",
        "--seed",
        "5",
    ]
    results = run_over_socket(sides, ["--block", "4f87:8", *c_options], ["-e", "1"])
    assert [code for code, _ in results] == [0, 0]
    for letter in "qQJi":
        assert f"-{letter}: " in results[0][1]
    assert "no secret" in results[0][1]
    assert_equal_keys(sides, "00004f87")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--listen"),
        (["-s", "x"], "--listen"),
        (["--listen", "here", "-s", "a", "-r", "b"], "--listen"),
        (["--listen", "here"], "HOST:PORT"),
        (["--fd", "0", "--timeout", "-1"], "timeout"),
        (["--fd", "999"], "no socket"),
        (["--fd", "0", "-b", "0"], "1..100"),
        (["--fd", "0", "-B", "2"], "0..1"),
        (["--fd", "0", "--variant", "best"], "best"),
        (["--fd", "0", "-e", "-2"], "margin"),
        (["--fd", "0", "-c", "x", "--block", "1:1"], "exclude"),
        (["--fd", "0", "-d", "/nowhere/at/all"], "no folder"),
    ],
)
def test_wrong_options_end_in_one_line(
    sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*folders(sides[0]), *options])
    assert caught.value.code == 1
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.startswith("errcd: ")
    assert errors.count("\n") == 1


def test_keys_are_never_left_unamplified(
    sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*folders(sides[0]), "--fd", "0", "-p"])
    assert caught.value.code == 2
    assert "-p" in capsys.readouterr().err


def test_help_lists_the_letters_of_the_c_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for letter in "csrdflqQeEIkJTVipbB":
        assert f"-{letter}" in text
