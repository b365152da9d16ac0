"""scenarios - where the scenario files that come with this package are."""

from pathlib import Path
from typing import Final

_INSTALLED: Final = Path(__file__).parent / "scenario_files"
_CHECKOUT: Final = Path(__file__).parents[2] / "scenarios"

FOLDER: Final = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""A wheel carries the files inside the package, a checkout beside its sources."""

LAB: Final = FOLDER / "lab.toml"
"""What is simulated unless another scenario is named."""
