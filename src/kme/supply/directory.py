"""directory - which SAE lives at which KME, as it is now."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kme.errors import RequestError, SettingsError
from kme.ids import KmeId, SaeId

Residents = Iterable[tuple[SaeId, KmeId]]
"""SAEs, each with the KME where it lives."""


@dataclass(frozen=True, slots=True)
class _Register:
    """All SAEs at one moment."""

    residents: tuple[tuple[SaeId, KmeId], ...]
    homes: Mapping[SaeId, KmeId]
    locals: tuple[SaeId, ...]


class SaeDirectory:
    """All SAEs that this KME and its peers serve, each with its home.

    SAEs come and go (`replace`), all changes of one moment in one step; the
    KMEs stay as long as the process.

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

    def __init__(self, local: KmeId, peers: tuple[KmeId, ...], residents: Residents = ()) -> None:
        self._local = local
        self._peers = peers
        if (twice := _first_repeated((local, *peers))) is not None:
            raise SettingsError(f"KME {twice!r} is named twice in the directory of SAEs")
        self._now = self._checked(residents)

    def replace(self, residents: Residents) -> bool:
        """Put other SAEs in the place of all that are here; return whether anything changed.

        Raises
        ------
        SettingsError
            As when it is made; everything stays as it is then.
        """
        before, self._now = self._now, self._checked(residents)
        return before.homes != self._now.homes

    @property
    def local(self) -> KmeId:
        """Name of this KME."""
        return self._local

    @property
    def peers(self) -> tuple[KmeId, ...]:
        """The KMEs that it shares a link with."""
        return self._peers

    @property
    def residents(self) -> tuple[tuple[SaeId, KmeId], ...]:
        """Each SAE with the KME where it lives."""
        return self._now.residents

    @property
    def local_saes(self) -> tuple[SaeId, ...]:
        """The SAEs that live at this KME."""
        return self._now.locals

    def home_of(self, sae: SaeId) -> KmeId:
        """Return the KME where an SAE lives.

        Raises
        ------
        RequestError
            If no such SAE is registered.
        """
        home = self._now.homes.get(sae)
        if home is None:
            raise RequestError(f"SAE {str(sae)!r} is not registered at this KME or its peers")
        return home

    def is_local(self, sae: SaeId) -> bool:
        """Return whether an SAE is registered and lives at this KME."""
        return self.lives_at(sae, self._local)

    def lives_at(self, sae: SaeId, kme: KmeId) -> bool:
        """Return whether an SAE is registered and lives at this KME."""
        return self._now.homes.get(sae) == kme

    def _checked(self, residents: Residents) -> _Register:
        known = tuple(residents)
        if (twice := _first_repeated(sae for sae, _ in known)) is not None:
            raise SettingsError(f"SAE {twice!r} is named twice in the directory of SAEs")
        for sae, home in known:
            if home not in (self._local, *self._peers):
                raise SettingsError(
                    f"SAE {sae!r} lives at {home!r}, which is neither this KME nor a peer of it"
                )
        return _Register(
            known, dict(known), tuple(sae for sae, home in known if home == self._local)
        )


def _first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once."""
    return next((name for name, n in Counter(names).items() if n > 1), None)
