"""folders - names of certificate files in, where they lie and who may read them out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.files import TEMPORARY_PREFIX
from kme.pki.bundle import CredentialFiles, write_certificates


class Place(StrEnum):
    """Where files lie: private to certauth, public, or in one folder per consumer."""

    CA = "ca"
    EXCHANGE = "exchange"
    OUT = "out"


_MODES: Final = {Place.CA: 0o600, Place.EXCHANGE: 0o644, Place.OUT: 0o640}


def place_of(name: str) -> Place:
    """Return the place in a file's name, ``PLACE/NAME``."""
    return Place(name.partition("/")[0])


def mode_of(name: str) -> int:
    """Return who may read a file: its owner, everybody, or the group of its folder."""
    return _MODES[place_of(name)]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the places are mounted.

    Parameters
    ----------
    ca
        Keys of authorities, and what only certauth needs.
    exchange
        Certificates and requests, shared with who asks for them; no secrets.
    out
        One folder per consumer; its group is the consumer's.
    """

    ca: Path
    exchange: Path
    out: Path

    def path(self, name: str) -> Path:
        """Return where a file lies."""
        place, _, rest = name.partition("/")
        roots = {Place.CA: self.ca, Place.EXCHANGE: self.exchange, Place.OUT: self.out}
        return roots[Place(place)] / rest

    def credential(self, certificate: str, key: str) -> CredentialFiles:
        """Return where a certificate and its key lie."""
        return CredentialFiles(self.path(certificate), self.path(key))

    def publish(self, chain: Sequence[x509.Certificate], names: Sequence[str]) -> None:
        """Let files hold just these certificates; one that does already is not touched.

        Raises
        ------
        CredentialError
            If a file cannot be written.
        """
        pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
        for name in names:
            path = self.path(name)
            if not path.exists() or path.read_bytes() != pem:
                write_certificates(chain, path, mode_of(name))
            self.guard(name)

    def guard(self, name: str) -> None:
        """Give a file that is ours alone to write the mode that its place asks for."""
        path = self.path(name)
        if place_of(name) is Place.EXCHANGE:
            return  # another service may put a link there, to have a file opened that is not its
        if path.stat().st_mode & 0o777 != mode_of(name):
            path.chmod(mode_of(name))

    def clear_leftovers(self, names: Iterable[str]) -> None:
        """Remove what a killed run left half-written of these files."""
        for path in map(self.path, names):
            for leftover in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}-*"):
                leftover.unlink(missing_ok=True)
