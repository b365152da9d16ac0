"""link_runs - the whole simulated link on a small scenario, and the processes that it starts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from kme.clock import SystemClock
from kme.epochs.qkde import Fact, StageReport
from qkd_sim.chain import Chain
from qkd_sim.params import Run, Scenario, Source
from qkd_sim.rounds import single
from qkd_sim.scenarios import LAB

SMALL: Final = replace(
    Scenario.read(LAB), source=Source(1.0e6, 0.955, 0.935), run=Run(duration_s=1.2)
)
"""The laboratory with half the light, for two epochs: about 50 000 sifted bits, some key."""

FAINT: Final = replace(SMALL, source=Source(2.0e5, 0.955, 0.935))
"""A fifth of that: some 3000 bits of key, and the stages before errcd take a moment."""

STAGES: Final = (
    "esim", "chopper2", "chopper", "getrate", "pfind", "costream", "splicer", "errcd",
)  # fmt: skip


@dataclass
class LinkRun:
    """One run of the chain.

    Parameters
    ----------
    work
        The folder of all its files.
    scenario
        What it simulated.
    reports
        What its stages reported.
    """

    work: Path
    scenario: Scenario
    reports: list[StageReport] = field(default_factory=list)

    def facts(self, stage: str) -> dict[str, Fact]:
        """Return a stage's figures."""
        [report] = [report for report in self.reports if report.stage == stage]
        return dict(report.facts)

    def number(self, stage: str, name: str) -> float:
        """Return a stage's figure that is a number."""
        value = self.facts(stage)[name]
        assert isinstance(value, int | float)
        return value


def run_chain(work: Path, scenario: Scenario, seed: int | None) -> LinkRun:
    """Run the whole chain once in this process (but for the two parties of errcd)."""
    run = LinkRun(work, scenario)
    final = (work / "hec" / "final", work / "lec" / "final")
    hec, lec, stretch = single(scenario, work, final, seed, SystemClock())
    Chain(hec, lec, run.reports.append).run(stretch)
    return run


def write_scenario(folder: Path, scenario: Scenario = SMALL) -> Path:
    """Write one of these scenarios as a file."""
    path = folder / "scenario.toml"
    text = LAB.read_text()
    for name, value in (
        ("duration_s = 5.5", f"duration_s = {scenario.run.duration_s}"),
        ("pair_rate_hz = 2.0e6", f"pair_rate_hz = {scenario.source.pair_rate_hz}"),
    ):
        assert name in text
        text = text.replace(name, value)
    path.write_text(text)
    assert Scenario.read(path) == scenario
    return path


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def parties_about(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Return process id and command line of every errcd party that works in a folder."""
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            words = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended meanwhile
        if "qkd_sim.programs.party" in words and any(str(folder) in word for word in words):
            yield int(place.name), words
