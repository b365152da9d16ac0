"""peers - where each connected KME is and which authority speaks for it, as an operator said."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from kme.errors import InputError
from kme.ids import KmeId
from kme.registry.ports import DocumentStore

SITES_PATH: Final = "site/peers"


@dataclass(frozen=True, slots=True)
class PeerSite:
    """A KME that an operator connected to this one.

    Parameters
    ----------
    kme
        Its id.
    site
        The name of its site, for people.
    peer_url
        Where its peer interface is: ``https://host:port``.
    sae_url
        Where its SAEs find it, for people.
    ca
        PEM of the authority that issues its certificates, and of no other
        KME's: a certificate counts as this KME's only if it hangs under it.
    chain
        PEM of what that authority hangs under.
    fingerprint
        What the two operators compared.
    since_s
        When it was connected: seconds since 1970.
    """

    kme: KmeId
    site: str
    peer_url: str
    sae_url: str
    ca: str
    chain: str
    fingerprint: str
    since_s: float

    def to_json(self) -> dict[str, Any]:
        """Write it as members of a document."""
        return asdict(self)

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "PeerSite":
        """Read it.

        Raises
        ------
        InputError
            If it is none.
        """
        texts = ("site", "peer_url", "sae_url", "ca", "chain", "fingerprint")
        try:
            values = {name: str(members[name]) for name in texts}
            return cls(kme=KmeId(members["kme"]), since_s=float(members["since_s"]), **values)
        except (TypeError, ValueError, LookupError) as error:
            raise InputError("a connected KME is not written as it should be") from error


async def read_site(documents: DocumentStore, kme: KmeId) -> PeerSite | None:
    """Return a connected KME; None if nobody connected it."""
    found = await documents.read(f"{SITES_PATH}/{kme}")
    return None if found is None else PeerSite.from_json(found.data)


async def read_sites(documents: DocumentStore) -> list[PeerSite]:
    """Return all connected KMEs, in order of their ids."""
    names = sorted(await documents.names(SITES_PATH))
    found = [await read_site(documents, KmeId(name)) for name in names]
    return [site for site in found if site is not None]


async def write_site(documents: DocumentStore, site: PeerSite) -> None:
    """Connect a KME, in the place of what was connected under its id.

    Raises
    ------
    ConflictError
        If somebody else did so just now.
    """
    path = f"{SITES_PATH}/{site.kme}"
    found = await documents.read(path)
    await documents.write(path, site.to_json(), 0 if found is None else found.version)


async def forget_site(documents: DocumentStore, kme: KmeId) -> None:
    """Disconnect a KME."""
    await documents.forget(f"{SITES_PATH}/{kme}")
