"""reserves - who asks for keys in, how many bytes must stay in stock for others out."""

from collections.abc import Iterable
from dataclasses import dataclass

from kme.errors import SettingsError
from kme.ids import SaeId
from kme.supply.directory import SaeDirectory


@dataclass(frozen=True, slots=True)
class Reserve:
    """What a pair of SAEs can have whatever others ask for.

    Parameters
    ----------
    master
        The SAE that asks for keys; it lives here.
    slave
        The SAE that the keys are shared with.
    n_bytes
        So much of the stock is kept for the two.
    """

    master: SaeId
    slave: SaeId
    n_bytes: int


class Reserves:
    """Reserves of all pairs of SAEs.

    A pair with a reserve of r bytes finds r bytes in stock as long as it has
    not taken them itself: nobody else is given keys that would leave less than
    the reserves of all others. So a greedy SAE runs out before they do.

    Parameters
    ----------
    reserves
        All of them.

    Raises
    ------
    SettingsError
        If a pair of SAEs has two.
    """

    def __init__(self, reserves: Iterable[Reserve]) -> None:
        self._bytes: dict[tuple[SaeId, SaeId], int] = {}
        for one in reserves:
            if (one.master, one.slave) in self._bytes:
                raise SettingsError(f"reserves: {one.master} and {one.slave} have two of them")
            self._bytes[one.master, one.slave] = one.n_bytes

    def kept_from(self, master: SaeId, slave: SaeId, directory: SaeDirectory) -> int:
        """Return how many bytes must stay for others in the stock that this pair takes from.

        Raises
        ------
        RequestError
            If the slave is not known.
        """
        if not self._bytes:
            return 0
        home = directory.home_of(slave)
        return sum(
            n_bytes
            for pair, n_bytes in self._bytes.items()
            if pair != (master, slave) and directory.lives_at(pair[1], home)
        )
