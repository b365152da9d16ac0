"""kme.log: an event and its fields, one line each."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kme.log import LogFormat, set_up_logging
from kme.secret import Secret


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_hold_the_event_and_its_fields() -> None:
    stream = io.StringIO()
    set_up_logging("INFO", LogFormat.JSON, stream)
    logging.getLogger("kme.pairing").info("paired", extra={"number": 7, "key": Secret(b"1234")})
    fields = json.loads(stream.getvalue())
    assert fields["event"] == "paired"
    assert fields["number"] == 7
    assert fields["level"] == "info"
    assert fields["logger"] == "kme.pairing"
    assert fields["key"] == "Secret(4 bytes)"


def test_plain_lines_are_for_people_and_without_colour_in_a_file() -> None:
    stream = io.StringIO()
    set_up_logging("INFO", LogFormat.PLAIN, stream)
    logging.getLogger("kme").warning("peer away", extra={"peer": "kme-b"})
    [line] = stream.getvalue().splitlines()
    assert "peer away" in line
    assert "peer=kme-b" in line
    assert "\x1b" not in line


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    set_up_logging("WARNING", LogFormat.PLAIN, stream)
    logging.getLogger("kme").info("narration")
    assert stream.getvalue() == ""


def test_libraries_that_narrate_bodies_stay_quiet_at_debug() -> None:
    stream = io.StringIO()
    set_up_logging("DEBUG", LogFormat.PLAIN, stream)
    logging.getLogger("httpcore.http11").debug("receive_response_body")
    assert stream.getvalue() == ""
