import json

import pytest

from kme.appliance.operator.screen import Screen, shown

ROWS: list[dict[str, object]] = [
    {"peer": "kme-b", "digest": "ab" * 32, "reason": None},
    {"peer": "x\x1b[2J\n", "digest": ""},
]


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    assert shown("details", "a\x1b[31mb\r\n\u202ec") == "a?[31mb???c"
    assert shown("details", "grün [bold]x[/bold]") == "grün [bold]x[/bold]"


def test_nothing_is_a_dash_and_a_digest_is_short() -> None:
    assert shown("reason", None) == "-"
    assert shown("digest", "ab" * 32) == "ab" * 6
    assert shown("n_bytes", 0) == "0"


def test_people_get_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.table("pairs", ROWS, ("peer", "digest", "reason"))
    screen.table("alarms", [], ("at",))
    screen.say("Next: rest.")
    screen.result({"not": "shown"})
    out = capsys.readouterr().out
    assert "kme-b" in out
    assert "alarms: none\nNext: rest.\n" in out
    assert "\x1b" not in out
    assert "shown" not in out


def test_programs_get_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.table("pairs", ROWS, ("peer",))
    screen.say("Next: rest.")
    screen.result({"rows": ROWS})
    assert json.loads(capsys.readouterr().out) == {"rows": ROWS}
