"""cable - the way between two KMEs as a cable into a network namespace, which a test damages.

One KME lives in the namespace, the other one outside. Unlike the proxies of
`bad_link`, nothing stands between them: packets are lost, and TCP does what it
does then.
"""

import asyncio
import ctypes
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bad_link import either

_NETWORK: Final = 0x40000000  # CLONE_NEWNET of setns(2)
_BAD_S: Final = (0.5, 4.0)
_GOOD_S: Final = (0.5, 2.0)

_LOSES_SOME: Final = ("-m", "statistic", "--mode", "random", "--probability", "0.3")

FAULTS: Final[tuple[tuple[Sequence[str], ...], ...]] = (
    (("INPUT", "-j", "DROP"), ("OUTPUT", "-j", "DROP")),
    (("INPUT", "-j", "DROP"),),
    (("OUTPUT", "-j", "DROP"),),
    (("INPUT", *_LOSES_SOME, "-j", "DROP"), ("OUTPUT", *_LOSES_SOME, "-j", "DROP")),
    (("INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"),),
)
"""Rules of the far end's firewall: nothing passes, or not one way, some are lost, resets."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses at both ends of a cable."""

    near: str
    far: str


class Cable:
    """Two cables into a namespace: one for the peer, which is damaged, one for SAEs.

    Root makes it; `running` takes it away again.

    Parameters
    ----------
    number
        Tells it from others on this host, ``0 <= number < 64``.
    """

    def __init__(self, number: int) -> None:
        self.namespace = f"kme-far-{number}"
        self.n_switches = 0
        self.peers, self.saes = [
            # RFC 2544 keeps these addresses for tests of networks.
            Ends(f"198.18.{number}.{4 * i + 1}", f"198.18.{number}.{4 * i + 2}")
            for i in range(2)
        ]
        self._peer_wire, self._sae_wire = f"kmep{number}", f"kmes{number}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Lay the cables, and remove them at the end."""
        self._remove()
        _run("ip", "netns", "add", self.namespace)
        try:
            for wire, ends in ((self._peer_wire, self.peers), (self._sae_wire, self.saes)):
                self._lay(wire, ends)
            self._inside("ip", "link", "set", "lo", "up")
            yield
        finally:
            self._remove()

    async def switch_now_and_then(self, rng: random.Random, over: "asyncio.Event") -> None:
        """Damage the peers' cable in one way after another; then mend it."""
        for fault in _shuffled_for_ever(rng):
            if rng.random() < 0.2:
                self._inside("ip", "link", "set", self._peer_wire, "down")
            for chain, *rule in fault:
                side = "-i" if chain == "INPUT" else "-o"
                self._inside("iptables", "-w", "-A", chain, side, self._peer_wire, *rule)
            self.n_switches += 1
            await either(over, rng.uniform(*_BAD_S))
            self.heal()
            if over.is_set():
                return
            await either(over, rng.uniform(*_GOOD_S))

    def heal(self) -> None:
        """Mend the peers' cable."""
        self._inside("iptables", "-w", "-F")
        self._inside("ip", "link", "set", self._peer_wire, "up")

    def _lay(self, wire: str, ends: Ends) -> None:
        outside = f"{wire}o"
        far = ("type", "veth", "peer", "name", wire, "netns", self.namespace)
        _run("ip", "link", "add", outside, *far)
        _run("ip", "addr", "add", f"{ends.near}/30", "dev", outside)
        _run("ip", "link", "set", outside, "up")
        self._inside("ip", "addr", "add", f"{ends.far}/30", "dev", wire)
        self._inside("ip", "link", "set", wire, "up")

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.namespace, *command)

    def _remove(self) -> None:
        if Path("/run/netns", self.namespace).exists():
            _run("ip", "netns", "del", self.namespace)  # its ends of the cables go with it


def enter(namespace: str) -> None:
    """Let this process use the network of a namespace from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(found, _NETWORK):
            raise OSError(ctypes.get_errno(), "setns", namespace)
    finally:
        os.close(found)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def _shuffled_for_ever(rng: random.Random) -> Iterator[tuple[Sequence[str], ...]]:
    while True:
        yield from rng.sample(FAULTS, len(FAULTS))
