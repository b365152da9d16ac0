"""inventory - certificate files in, one line of facts for each out; nothing secret is read."""

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import hashes

from kme.bootstrap.folders import Folders
from kme.bootstrap.profiles import Profile, Profiles
from kme.errors import CredentialError
from kme.pki.bundle import load_certificates


@dataclass(frozen=True, slots=True)
class Entry:
    """What there is of one profile.

    Parameters
    ----------
    name
        The profile.
    subject
        Common name that is or would be in the certificate.
    ends
        Last day, or why there is none.
    fingerprint
        SHA-256 of the certificate, hexadecimal; empty if there is none.
    """

    name: str
    subject: str
    ends: str
    fingerprint: str = ""


def take_inventory(profiles: Profiles, folders: Folders, now: datetime) -> list[Entry]:
    """Return what there is of each profile, in their order."""
    return [_entry(name, profile, folders, now) for name, profile in profiles.tables.items()]


def _entry(name: str, profile: Profile, folders: Folders, now: datetime) -> Entry:
    path = folders.path(profile.certificate)
    if not path.exists():
        return Entry(name, f"CN={profile.subject}", "not made yet")
    try:
        certificate = load_certificates(path, None)[0]
    except CredentialError:
        return Entry(name, f"CN={profile.subject}", "damaged")
    end = certificate.not_valid_after_utc
    ends = f"{end:%Y-%m-%d}" if end > now else f"ended {end:%Y-%m-%d}"
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Entry(name, certificate.subject.rfc4514_string(), ends, fingerprint)
