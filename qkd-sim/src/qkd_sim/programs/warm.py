"""warm - compile all kernels once, by a short run of the whole link."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from qkd_sim.programs import options

NAME: Final = "qkd-sim warm"
_DURATION_S: Final = 3.0


def main(argv: Sequence[str] | None = None) -> None:
    """Compile what is not compiled yet; the results are kept beside the sources."""
    options.parser(NAME, "Compile all kernels, so that later runs start at once.").parse_args(argv)
    options.run(NAME, _warm)


def _warm() -> None:
    from kme.clock import SystemClock  # noqa: PLC0415 - all of this is slow to import
    from qkd_sim.chain import Chain  # noqa: PLC0415
    from qkd_sim.params import Run, Scenario  # noqa: PLC0415
    from qkd_sim.rounds import single  # noqa: PLC0415
    from qkd_sim.scenarios import LAB  # noqa: PLC0415

    scenario = replace(Scenario.read(LAB), run=Run(_DURATION_S))
    with tempfile.TemporaryDirectory(prefix="qkd-sim-warm-") as name:
        work = Path(name)
        final = (work / "hec" / "final", work / "lec" / "final")
        hec, lec, stretch = single(scenario, work, final, 1, SystemClock())
        Chain(hec, lec, lambda _: None).run(stretch)


if __name__ == "__main__":
    main()
