"""vault_init that kills itself with SIGKILL at a chosen change of the world; else a real one.

``python dying_vault_init.py N before|after|term --first|--second``: changes are
requests that are not reads, files that get their name and files that lose it.
With ``term`` it is SIGTERM instead, after the change.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from kme.appliance.vault_init import main

_READS = {"get", "head", "list"}


class Death:
    """Counts changes, and comes at one of them."""

    def __init__(self, number: int, moment: str) -> None:
        self._left = number
        self._moment = moment

    def around(self, change: Callable[[], Any]) -> Any:
        """Make a change, unless death comes before or after it."""
        self._left -= 1
        if self._left == 0 and self._moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = change()
        if self._left == 0:
            is_term = self._moment == "term"
            os.kill(os.getpid(), signal.SIGTERM if is_term else signal.SIGKILL)
        return result


def arm(death: Death) -> None:
    """Put it around every change."""
    request, replace, unlink = requests.Session.request, Path.replace, Path.unlink

    def dying_request(self: requests.Session, method: str, *a: Any, **k: Any) -> Any:
        if method in _READS:
            return request(self, method, *a, **k)
        return death.around(lambda: request(self, method, *a, **k))

    def dying_unlink(self: Path, missing_ok: bool = False) -> None:
        if self.exists():
            death.around(lambda: unlink(self, missing_ok))

    requests.Session.request = dying_request  # type: ignore[method-assign, assignment, unused-ignore]
    Path.replace = lambda s, t: death.around(lambda: replace(s, t))  # type: ignore[method-assign, assignment]
    Path.unlink = dying_unlink  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(Death(int(sys.argv[1]), sys.argv[2]))
    del sys.argv[1:3]
    main()
