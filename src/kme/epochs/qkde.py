"""qkde - a QKD entity as a driver: how to start one, and what it reports while it runs.

A driver is found by its entry point (group ``kme.qkde``). It runs as a process
of its own, which leaves final key files in one folder per KME and writes one
JSON object per line on its standard output for each stage that it finished.
What goes wrong stands on its standard error, the last line of which is
``stage: message``. It stops on SIGTERM, and when its standard input ends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol

from kme.errors import SettingsError, StageError

ENTRY_POINT_GROUP: Final = "kme.qkde"

Fact = int | float | str | bool | None
"""A figure of a stage; its name carries its unit."""


@dataclass(frozen=True, slots=True)
class LinkJob:
    """What a link is asked to do.

    Parameters
    ----------
    final_keys
        The two folders for final key files: of the pair's first KME (high
        count side) and of its second (low count side).
    work
        Folder for all intermediate files.
    scenario
        File that describes the simulated link; None for the driver's default.
    seed
        Makes the run repeatable, and its keys no secret; None for real use.
    is_continuous
        Run until a signal asks to stop, in step with the clock on the wall;
        else once.
    """

    final_keys: tuple[Path, Path]
    work: Path
    scenario: Path | None = None
    seed: int | None = None
    is_continuous: bool = False


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage of the link did.

    Parameters
    ----------
    stage
        The stage's name, for instance ``costream``.
    duration_s
        How long it took.
    facts
        Its figures; each name carries its unit.
    """

    stage: str
    duration_s: float
    facts: Mapping[str, Fact]

    def to_line(self) -> str:
        """Return the report as one line of JSON."""
        return json.dumps(
            {"stage": self.stage, "duration_s": round(self.duration_s, 4), "facts": self.facts}
        )

    @classmethod
    def from_line(cls, line: str) -> "StageReport":
        """Read a report from a line of a driver's standard output.

        Raises
        ------
        StageError
            If the line isn't a report.
        """
        try:
            fields = json.loads(line)
            facts = {str(name): _fact(value) for name, value in dict(fields["facts"]).items()}
            return cls(str(fields["stage"]), float(fields["duration_s"]), facts)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StageError("link", f"the driver wrote no report: {line[:80]!r}") from error


def _fact(value: object) -> Fact:
    """Return a figure as it came.

    Raises
    ------
    TypeError
        If it is a list or an object.
    """
    if not isinstance(value, Fact):
        raise TypeError("a fact is a number, a text, a truth value or null")
    return value


class QkdeDriver(Protocol):
    """How to start a QKD entity."""

    def command(self, job: LinkJob) -> list[str]:
        """Return the program and its arguments that do the job."""
        ...


def find_driver(name: str) -> QkdeDriver:
    """Return the driver of this name.

    Raises
    ------
    SettingsError
        If no installed distribution offers one, or it cannot be loaded.
    """
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))
        raise SettingsError(f"no QKD driver is called {name!r}; installed: {known or 'none'}")
    entry = next(iter(found))
    try:
        driver: QkdeDriver = entry.load()()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"the QKD driver {name!r} cannot be loaded: {error}") from error
    return driver
