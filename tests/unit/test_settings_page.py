"""kme.settings_page: the page is made from the settings, and is the one in docs."""

from pathlib import Path

from kme.settings_page import describe_settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_in_docs_is_the_one_that_the_settings_make() -> None:
    assert PAGE.read_text() == describe_settings(), "run `make docs`"


def test_every_setting_has_a_description() -> None:
    rows = [line for line in describe_settings().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert not [row for row in rows if row.endswith("| None |")]
    assert not [row for row in rows if "| list |" in row]
