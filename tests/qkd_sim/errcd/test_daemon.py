import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from errcd_parties import Outcome, noisy_pair, run_both
from kme.epochs.finalkey import read_final_key
from kme.ids import Epoch
from qkd_sim.errcd.channel import DescriptorStream, FramedChannel
from qkd_sim.errcd.commands import CommandSource, parse_block
from qkd_sim.errcd.daemon import Daemon, Duties, Rules
from qkd_sim.errcd.randomness import SeededRandomness, SystemRandomness
from qkd_sim.errcd.terms import Conduct, Terms
from qkd_sim.errors import ChannelError, EpochFileError, InputError
from qkd_sim.packets import Type3

START = 0x4F87
RULES = Rules(Terms(), Conduct(), lambda epoch: SeededRandomness(3, f"{epoch}"))
Sides = tuple[Duties, Duties]


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """Raw keys of four epochs at 3 % on two sides, and of one with too many errors."""
    rng = np.random.default_rng(1)
    both = []
    for name in ("hec", "lec"):
        duties = Duties(tmp_path / name / "raw", tmp_path / name / "final")
        duties.raw_keys.mkdir(parents=True)
        duties.final_keys.mkdir()
        both.append(duties)
    for number, n_bits, qber in [*((START + i, 5000, 0.03) for i in range(4)), (9, 9000, 0.2)]:
        for duties, key in zip(both, noisy_pair(rng, n_bits, qber), strict=True):
            Type3(Epoch(number), key, 1).write(duties.raw_keys)
    return both[0], both[1]


def run(
    sides: Sides, blocks: Sequence[str], rules: Rules = RULES
) -> tuple[Outcome[None, None], tuple[Daemon, Daemon]]:
    """Let one side offer blocks and the other accept them."""
    ends = FramedChannel.pair(timeout_s=20.0)
    alice, bob = (Daemon(end, duties, rules) for end, duties in zip(ends, sides, strict=True))
    commands = [parse_block(text) for text in blocks]

    def offer() -> None:
        try:
            alice.offer_all(commands)
        finally:
            ends[0].close()

    def accept() -> None:
        try:
            bob.accept_all()
        finally:
            ends[1].close()

    return run_both(offer, accept), (alice, bob)


def names(duties: Duties) -> list[str]:
    return sorted(path.name for path in duties.final_keys.iterdir())


def content(sides: Sides, name: str) -> bytes:
    one, two = ((side.final_keys / name).read_bytes() for side in sides)
    assert one == two
    assert read_final_key(sides[0].final_keys / name).n_bits > 1000
    return one


def test_each_block_becomes_one_file_on_both_sides(sides: Sides) -> None:
    outcome, (alice, bob) = run(sides, ["4f87:2", "4f89:2"])
    assert (outcome.alice, outcome.bob) == (None, None)
    assert names(sides[0]) == names(sides[1]) == ["00004f87", "00004f89"]
    for name in names(sides[0]):
        content(sides, name)
    assert alice.n_keys == bob.n_keys == 2
    assert [block["start_epoch"] for block in bob.blocks] == ["00004f87", "00004f89"]


def test_the_same_randomness_gives_the_same_files_and_fresh_randomness_others(
    sides: Sides,
) -> None:
    fresh = replace(RULES, randomness=lambda _epoch: SystemRandomness())
    files = []
    for rules in (RULES, RULES, fresh, fresh):
        run(sides, ["4f87:4"], rules)
        files.append(content(sides, "00004f87"))
    assert files[0] == files[1]
    assert len(set(files)) == 3


def test_a_refused_block_is_passed_over(sides: Sides, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        outcome, daemons = run(sides, ["9:1", "4f87:4"])
    assert (outcome.alice, outcome.bob) == (None, None)
    assert names(sides[0]) == names(sides[1]) == ["00004f87"]
    assert caplog.text.count("too many errors") == 2
    for daemon in daemons:
        refused, done = daemon.blocks
        assert (refused["start_epoch"], refused["final_bits"]) == ("00000009", 0)
        assert done["final_bits"]
        assert daemon.n_keys == 1


def break_raw_key(duties: Duties, name: str) -> None:
    (duties.raw_keys / name).write_bytes(b"\x03" * 40)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_raw_key_is_set_aside_and_ends_its_side(sides: Sides, broken: int) -> None:
    break_raw_key(sides[broken], "00004f88")
    outcome, (alice, _) = run(sides, ["4f87:2"])
    assert isinstance((outcome.alice, outcome.bob)[broken], EpochFileError)
    if broken:  # Bob says why before he ends
        assert "no raw key" in str(alice.blocks[0]["refused"])
    else:  # Alice ends before she said anything
        assert isinstance(outcome.bob, ChannelError)
    assert (sides[broken].raw_keys / "aside" / "00004f88").exists()
    assert names(sides[0]) == names(sides[1]) == []


@pytest.mark.parametrize("broken", [0, 1])
def test_a_tolerant_side_goes_on_after_a_broken_raw_key(sides: Sides, broken: int) -> None:
    break_raw_key(sides[broken], "00004f87")
    tolerant = replace(sides[0], tolerance=1), replace(sides[1], tolerance=1)
    outcome, _ = run(tolerant, ["4f87:1", "4f88:3"])
    assert (outcome.alice, outcome.bob) == (None, None)
    assert names(sides[0]) == names(sides[1]) == ["00004f88"]


def test_used_raw_keys_are_deleted_only_when_a_key_came_of_them(sides: Sides) -> None:
    deleting = replace(sides[0], is_raw_deleted=True), sides[1]
    run(deleting, ["9:1", "4f87:3"])
    assert sorted(path.name for path in sides[0].raw_keys.iterdir()) == ["00000009", "00004f8a"]
    assert len(list(sides[1].raw_keys.iterdir())) == 5


def test_a_key_that_cannot_be_written_is_an_error(sides: Sides) -> None:
    sides[1].final_keys.rmdir()
    outcome, _ = run(sides, ["4f87:4"])
    assert isinstance(outcome.bob, InputError)
    assert "00004f87" in str(outcome.bob)


def serve(sides: Sides, commands: Path) -> Outcome[None, None]:
    ends = FramedChannel.pair(timeout_s=20.0)
    alice, bob = (Daemon(end, duties, RULES) for end, duties in zip(ends, sides, strict=True))
    source = CommandSource(commands)
    stream = ends[0]._stream
    assert isinstance(stream, DescriptorStream)

    def offer() -> None:
        try:
            alice.serve(source, stream.reading)
        finally:
            ends[0].close()
            source.close()

    return run_both(offer, bob.accept_all)


def test_a_file_of_commands_is_worked_on_to_its_end(sides: Sides, tmp_path: Path) -> None:
    (tmp_path / "commands").write_text("4f87 2\n\n4f89 2 0.02\n")
    outcome = serve(sides, tmp_path / "commands")
    assert (outcome.alice, outcome.bob) == (None, None)
    assert names(sides[0]) == names(sides[1]) == ["00004f87", "00004f89"]


def test_a_bad_command_ends_a_strict_side_and_not_a_tolerant_one(
    sides: Sides, tmp_path: Path
) -> None:
    (tmp_path / "commands").write_text("nonsense\n4f87 4\n")
    outcome = serve(sides, tmp_path / "commands")
    assert isinstance(outcome.alice, InputError)
    assert isinstance(outcome.bob, ChannelError)
    outcome = serve((replace(sides[0], tolerance=1), sides[1]), tmp_path / "commands")
    assert (outcome.alice, outcome.bob) == (None, None)
    assert names(sides[1]) == ["00004f87"]
