import json
import os
from pathlib import Path

import pytest

from kme.ids import Epoch
from qkd_sim.errcd.estimate import SampleEstimate
from qkd_sim.errcd.report import (
    Notifier,
    as_json,
    notification,
    refusal_as_json,
    refusal_notification,
    write_json,
)
from qkd_sim.errcd.result import BlockResult
from qkd_sim.errors import BlockRefusedError, InputError

RESULT = BlockResult(
    start_epoch=Epoch(0x4F87),
    n_epochs=4,
    sifted_bits=10_000,
    sample=SampleEstimate(2000, 60),
    corrected_bits=240,
    disclosed_bits=1650,
    verification_bits=64,
    final_bits=2345,
    seconds={"estimate": 0.5},
)
REFUSED = BlockRefusedError(
    "too many errors", start_epoch=Epoch(0x4F87), n_epochs=4, sifted_bits=900, qber=0.2
)


@pytest.mark.parametrize(
    ("line_format", "line"),
    [
        (0, "00004f87"),
        (1, "00004f87 2345"),
        (2, "00004f87 10000 2345 0.0300 4"),
        (4, "00004f87 10000 2345 0.0300 1650"),
    ],
)
def test_a_line_says_what_its_format_promises(line_format: int, line: str) -> None:
    assert notification(RESULT, line_format) == line


def test_the_other_formats_are_sentences() -> None:
    assert "2345 final" in notification(RESULT, 3)
    assert notification(RESULT, 5).endswith("1650 parities disclosed")


def test_a_refused_block_is_told_where_the_format_has_more_than_the_file() -> None:
    assert [refusal_notification(REFUSED, i) for i in (0, 1)] == [None, None]
    assert refusal_notification(REFUSED, 2) == "00004f87 900 0 0.2000 4"
    assert refusal_notification(BlockRefusedError("unknown"), 2) is None


def test_the_figures_follow_from_each_other() -> None:
    assert RESULT.key_bits == 8000
    assert RESULT.qber == 0.03
    # h(0.03) = 0.19439
    assert RESULT.efficiency == pytest.approx(1650 / (8000 * 0.194392), rel=1e-5)


def test_json_has_all_figures_and_no_key(tmp_path: Path) -> None:
    path = tmp_path / "blocks.json"
    write_json(path, [as_json(RESULT), refusal_as_json(REFUSED)])
    done, refused = json.loads(path.read_text())
    assert done["start_epoch"] == refused["start_epoch"] == "00004f87"
    assert (done["final_bits"], refused["final_bits"]) == (2345, 0)
    assert refused["refused"] == "too many errors"
    assert done["efficiency"] == RESULT.efficiency
    assert "key" not in done


def test_lines_are_appended_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    path.write_text("before\n")
    notifier = Notifier(path)
    notifier.write("one")
    notifier.write("two")
    notifier.close()
    assert path.read_text() == "before\none\ntwo\n"


def test_a_fifo_needs_no_reader_yet(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path)
    notifier = Notifier(path)
    notifier.write("one")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)
    notifier.close()


def test_a_fifo_that_nobody_empties_is_an_error_and_no_hang(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path)
    notifier = Notifier(path)

    def write_on() -> None:
        for _ in range(100_000):
            notifier.write("x" * 100)

    with pytest.raises(InputError, match="notify"):
        write_on()
    notifier.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        Notifier(tmp_path / "nowhere" / "notify")
