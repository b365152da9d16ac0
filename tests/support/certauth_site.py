"""certauth_site - a site's certificate folders in a temporary folder, with the real profiles."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kme.bootstrap.authorities import Done
from kme.bootstrap.certauth import make_certificates
from kme.bootstrap.csr import sign_requests
from kme.bootstrap.folders import Folders
from kme.bootstrap.profiles import Profiles, load_profiles

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "certs" / "profiles.toml"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
REQUESTS = ("services", "kme", "sae")


class CertauthSite:
    """One site: its three folders, and certauth run on them at a chosen moment."""

    def __init__(self, directory: Path, kme: str = "kme-1", site: str = "Lab") -> None:
        self.directory = directory
        self.folders = Folders(directory / "ca", directory / "exchange", directory / "out")
        self.profiles: Profiles = load_profiles(PROFILES, kme, site)
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in REQUESTS}

    def make(self, now: datetime = NOW) -> dict[str, str]:
        """Run `certs`; return what was done, by profile."""
        return _by_name(make_certificates(self.profiles, self.folders, now))

    def sign(self, now: datetime = NOW, replaced: Collection[str] = ()) -> dict[str, str]:
        """Run `csr`; return what was done, by profile."""
        return _by_name(sign_requests(self.profiles, self.folders, now, replaced))

    def ask(self, *names: str) -> None:
        """Write the requests of these authorities, or of all, as Vault does."""
        for name in names or REQUESTS:
            write_request(self.path(f"exchange/{name}.csr"), self.keys[name])

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        return self.folders.path(name)

    def contents(self) -> dict[str, tuple[bytes, int]]:
        """Return every file with its content and the moment it was written."""
        return {
            str(path.relative_to(self.directory)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.directory.rglob("*")
            if path.is_file()
        }


def _by_name(done: Sequence[Done]) -> dict[str, str]:
    return {one.name: one.what for one in done}


def write_request(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
    common_name: str = "whatever it likes",
) -> None:
    """Write a certificate signing request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))
