"""screen - what was found, as tables for people or as one JSON object for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

_WIDTH: Final = 140
_DIGEST_CHARACTERS: Final = 12


class Screen:
    """Where results go: tables, or JSON if that was asked for.

    Parameters
    ----------
    as_json
        Whether results are one JSON object, and nothing else is shown.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        console = Console(markup=False, highlight=False)
        # Without a terminal (a pipe, a container) rich would cut tables to 80 columns.
        self._console = (
            console if console.is_terminal else Console(markup=False, highlight=False, width=_WIDTH)
        )

    def result(self, value: object) -> None:
        """Show a result to a program, if one asked."""
        if self.as_json:
            typer.echo(json.dumps(value))

    def say(self, text: str) -> None:
        """Show a line to people."""
        if not self.as_json:
            typer.echo(text)

    def table(self, title: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Show a table to people; a column's title is its name in words."""
        if self.as_json:
            return
        listed = list(rows)
        if not listed:
            typer.echo(f"{title}: none")
            return
        table = Table(*(name.replace("_", " ") for name in columns), title=title)
        for row in listed:
            table.add_row(*(shown(name, row.get(name)) for name in columns))
        self._console.print(table)


def shown(name: str, value: object) -> str:
    """Return a value as it stands in a table, with nothing that a terminal would obey."""
    if value is None:
        return "-"
    if name == "digest":
        return str(value)[:_DIGEST_CHARACTERS]
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
