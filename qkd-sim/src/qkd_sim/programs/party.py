"""party - errcd as somebody's child: it ends at once when its standard input does."""

import os
from collections.abc import Sequence
from typing import Final

from kme.epochs.driver import when_input_ends
from qkd_sim.programs import errcd

ORPHANED: Final = 75
"""Exit code of a party whose parent is gone; it stands for "try again" (sysexits.h)."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one side of errcd until its work or its parent ends."""
    # Not by an exception: it would wait for the end of a compiled loop, or of a silent peer.
    when_input_ends(lambda: os._exit(ORPHANED))
    errcd.main(argv)


if __name__ == "__main__":
    main()
