"""kme.settings_page: the page is made from the settings, and is the one in docs."""

import re
import subprocess
import sys
from pathlib import Path

from kme.settings_page import describe_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"


def _rows() -> list[str]:
    return [line for line in describe_settings().splitlines() if line.startswith("| `")]


def test_the_page_in_docs_is_the_one_that_the_settings_make() -> None:
    assert PAGE.read_text() == describe_settings(), "run `make docs`"


def test_every_setting_has_a_description() -> None:
    rows = _rows()
    assert len(rows) > 100
    assert not [row for row in rows if row.endswith(("| None |", "|  |"))]
    assert not [row for row in rows if "| list |" in row]


def test_every_name_of_the_sites_example_is_explained() -> None:
    names = re.findall(r"^#?(KME_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(names) > 15
    first_cells = " ".join(row.split(" | ")[0] for row in _rows())
    for name in names:
        assert f"`{name}`" in first_cells, name


def test_what_all_services_read_stands_there_once() -> None:
    assert len([row for row in _rows() if row.startswith("| `KME_LOG__LEVEL`")]) == 1
    assert "| `KME_VAULT__URL` | text |" in describe_settings()


def test_an_embedded_kme_is_described_where_the_appliance_is_not_installed() -> None:
    program = (
        "import sys; sys.modules['hvac'] = None\n"
        "from kme.settings_page import describe_settings\n"
        "print(describe_settings())"
    )
    page = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "## `[pairing]`" in page
    assert "install the extra `appliance`" in page
    assert "KME_VAULT__URL" not in page
