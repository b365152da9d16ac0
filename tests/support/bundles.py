"""bundles - KMEs with authorities of their own, and what their operators give to each other."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from kme.appliance.connect import Bundle
from kme.ids import KmeId
from kme.pki.authority import Authority, TlsRole, Validity

NOW = datetime.now(UTC)


def lasting(days: float = 365, since: datetime = NOW) -> Validity:
    """Return a span of time."""
    return Validity.lasting(timedelta(days=days), since)


def pem(authority: Authority) -> str:
    """Return an authority's certificate."""
    return authority.credential.certificate.public_bytes(Encoding.PEM).decode()


@dataclass
class Kme:
    """One KME's root and the authority that makes its certificates."""

    name: str
    root: Authority
    ca: Authority

    @classmethod
    def make(cls, name: str, validity: Validity | None = None) -> "Kme":
        """Make both."""
        root = Authority.root(f"{name} root", lasting(3650, NOW - timedelta(days=30)))
        roles = TlsRole.SERVER | TlsRole.CLIENT
        return cls(name, root, root.issue_authority(f"{name} KME CA", roles, validity or lasting()))

    def bundle(self, **changes: str) -> Bundle:
        """Return its bundle, perhaps with something wrong in it."""
        values = {
            "site": f"site of {self.name}",
            "peer_url": f"https://{self.name}.example:9443",
            "sae_url": f"https://{self.name}.example:8443",
            "ca": pem(self.ca),
            "root": pem(self.root),
        }
        return Bundle(kme=KmeId(self.name), **(values | changes))
