"""A scenario that gives some key within a few seconds."""

from pathlib import Path

from qkd_sim.scenarios import LAB


def small_scenario(folder: Path) -> Path:
    """Write the lab scenario, shortened to four epochs, into a folder; return the file."""
    path = folder / "small.toml"
    path.write_text(LAB.read_text().replace("duration_s = 5.5", "duration_s = 2.3"))
    return path
