"""certauth - profiles in, the certificates that they describe out: what is right is left alone."""

import secrets
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from kme.bootstrap.authorities import KEPT, MADE, Authorities, Done, ends_soon
from kme.bootstrap.folders import Folders, mode_of
from kme.bootstrap.profiles import LeafProfile, Pkcs12Profile, Profiles
from kme.errors import CredentialError
from kme.files import write_whole
from kme.pki.authority import Validity, new_key
from kme.pki.bundle import (
    Credential,
    load_credential,
    load_pkcs12,
    write_credential,
    write_pkcs12,
)
from kme.secret import Secret

_PASSWORD_BYTES: Final = 24


def make_certificates(profiles: Profiles, folders: Folders, now: datetime) -> list[Done]:
    """Make or complete the authorities and leaves of a site.

    Doing it again changes no byte of what is there, says what its profile says
    and does not end soon. A leaf that is missing, spoilt or ends soon is made
    again; an authority is renewed with its key, and never replaced.

    Raises
    ------
    CredentialError
        If an authority cannot be used as it is, or a file cannot be written;
        the message says what to do.
    """
    now = now.replace(microsecond=0)
    authorities = Authorities(profiles.authorities, folders, now)
    folders.clear_leftovers(profiles.files)
    done = authorities.make()
    leaves = _Leaves(authorities, folders, now)
    return done + [leaves.make(name, profile) for name, profile in profiles.leaves.items()]


class _Leaves:
    """The end certificates at one moment."""

    def __init__(self, authorities: Authorities, folders: Folders, now: datetime) -> None:
        self._authorities = authorities
        self._folders = folders
        self._now = now

    def make(self, name: str, profile: LeafProfile) -> Done:
        what, credential = self._kept(profile)
        if credential is None:
            credential = self._issue(profile)
        if profile.pkcs12 is not None:
            self._bundle(profile.pkcs12, name, credential)
        for file in (profile.certificate, profile.key):
            self._folders.guard(file)
        self._folders.publish(credential.chain, profile.copies)
        return Done(name, credential.certificate, what)

    def _kept(self, profile: LeafProfile) -> tuple[str, Credential | None]:
        """Return the credential that is there if it can stay, else why it cannot."""
        files = self._folders.credential(profile.certificate, profile.key)
        if not (files.certificate.exists() or files.key.exists()):
            return MADE, None
        try:
            credential = load_credential(files, self._now)
        except CredentialError as error:
            return f"made again: {error.message}", None
        fault = self._fault(profile, credential)
        return (KEPT, credential) if fault is None else (f"made again: {fault}", None)

    def _fault(self, profile: LeafProfile, credential: Credential) -> str | None:
        issuer = self._authorities[profile.issuer]
        key = credential.key
        if not profile.leaf.describes(credential.certificate):
            return "it said something else than its profile"
        if not issuer.has_issued(credential.certificate):
            return "another authority had issued it"
        if credential.chain[1:] != issuer.below_root:
            return "its chain was another one"
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != ec.SECP384R1.name:
            return "its key was not on the curve P-384"
        if ends_soon(credential.certificate, self._now):
            return f"it would have ended on {credential.certificate.not_valid_after_utc:%Y-%m-%d}"
        return None

    def _issue(self, profile: LeafProfile) -> Credential:
        validity = Validity.lasting(profile.lifetime, self._now)
        credential = self._authorities[profile.issuer].issue(profile.leaf, validity, new_key())
        files = self._folders.credential(profile.certificate, profile.key)
        modes = mode_of(profile.key), mode_of(profile.certificate)
        write_credential(credential, files, *modes)
        return credential

    def _bundle(self, profile: Pkcs12Profile, name: str, credential: Credential) -> None:
        """Let the PKCS#12 file hold this credential under the site's password."""
        path, password = self._folders.path(profile.file), self._password(profile.password)
        try:
            held = load_pkcs12(path, password)
            is_held = (held.chain, held.key.public_key()) == (
                credential.chain,
                credential.key.public_key(),
            )
        except CredentialError:
            is_held = False  # absent, spoilt, or made under a password that was lost
        if not is_held:
            write_pkcs12(credential, name, password, path, mode_of(profile.file))
        self._folders.guard(profile.file)

    def _password(self, name: str) -> Secret:
        """Return the password in a file, made once."""
        path = self._folders.path(name)
        if not path.exists() or not path.read_bytes().strip():
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            write_whole(path, password.encode() + b"\n", mode_of(name))
        self._folders.guard(name)
        return Secret(path.read_bytes().strip())
