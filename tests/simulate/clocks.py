"""clocks - the time of one KME: it runs a little fast or slow, and somebody may set it."""

from simulation import VirtualClock


class SkewedClock:
    """A `kme.clock.Clock` of one machine in the simulation's true time.

    Parameters
    ----------
    true
        The simulation's time.
    rate
        How many of this machine's seconds pass in a true second.
    ahead_s
        How far its universal time is ahead of the true one at the start.
    """

    def __init__(self, true: VirtualClock, rate: float, ahead_s: float) -> None:
        self._true = true
        self._rate = rate
        self._ahead_s = ahead_s
        self._boot_s = 1e6 * rate

    def now_s(self) -> float:
        """Return what this machine takes for the universal time."""
        return self._true.now_s() + self._ahead_s

    def monotonic_s(self) -> float:
        """Return this machine's monotonic seconds."""
        return self._boot_s + self._true.monotonic_s() * self._rate

    async def sleep(self, duration_s: float) -> None:
        """Wait for so many of this machine's seconds."""
        await self._true.sleep(duration_s / self._rate)

    def jump(self, duration_s: float) -> None:
        """Set the universal time forward or back; the monotonic one goes on."""
        self._ahead_s += duration_s
