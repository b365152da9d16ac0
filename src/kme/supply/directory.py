"""directory - which SAE lives at which KME."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kme.errors import RequestError, SettingsError
from kme.ids import KmeId, SaeId


@dataclass(frozen=True, slots=True)
class SaeDirectory:
    """All SAEs that this KME and its peers serve, each with its home.

    Parameters
    ----------
    local
        This KME.
    peers
        The KMEs that it shares a link with.
    residents
        Each SAE with the KME where it lives; at most once each.

    Raises
    ------
    SettingsError
        If a KME or an SAE is named twice, or an SAE lives at a KME that is
        neither this one nor a peer.
    """

    local: KmeId
    peers: tuple[KmeId, ...]
    residents: tuple[tuple[SaeId, KmeId], ...]
    _homes: Mapping[SaeId, KmeId] = field(init=False, repr=False, compare=False)
    _locals: tuple[SaeId, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = (self.local, *self.peers)
        if (twice := _first_repeated(known)) is not None:
            raise SettingsError(f"KME {twice!r} is named twice in the directory of SAEs")
        if (twice := _first_repeated(sae for sae, _ in self.residents)) is not None:
            raise SettingsError(f"SAE {twice!r} is named twice in the directory of SAEs")
        for sae, home in self.residents:
            if home not in known:
                raise SettingsError(
                    f"SAE {sae!r} lives at {home!r}, which is neither this KME nor a peer of it"
                )
        object.__setattr__(self, "_homes", dict(self.residents))
        local_saes = tuple(sae for sae, home in self.residents if home == self.local)
        object.__setattr__(self, "_locals", local_saes)

    @property
    def local_saes(self) -> tuple[SaeId, ...]:
        """The SAEs that live at this KME."""
        return self._locals

    def home_of(self, sae: SaeId) -> KmeId:
        """Return the KME where an SAE lives.

        Raises
        ------
        RequestError
            If no such SAE is registered.
        """
        home = self._homes.get(sae)
        if home is None:
            raise RequestError(f"SAE {str(sae)!r} is not registered at this KME or its peers")
        return home

    def is_local(self, sae: SaeId) -> bool:
        """Return whether an SAE is registered and lives at this KME."""
        return self._homes.get(sae) == self.local


def _first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once."""
    return next((name for name, n in Counter(names).items() if n > 1), None)
