"""authorities - certauth's own folder in, its certificate authorities out: kept, made or renewed.

An authority is never replaced because it looks damaged: all that hangs under
it would stop being valid. It is renewed under the key that it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kme.bootstrap.folders import Folders, mode_of
from kme.bootstrap.profiles import AuthorityProfile
from kme.errors import CredentialError
from kme.pki.authority import Authority, Validity, new_key
from kme.pki.bundle import (
    Credential,
    load_certificates,
    load_credential,
    load_key,
    write_credential,
)
from kme.pki.site import RENEW_BEFORE

KEPT: Final = "kept"
MADE: Final = "made"

_REMEDY: Final = (
    "Nothing was changed. Put the file back from a backup of the volume that certauth keeps its "
    "keys in; or give up this PKI with every certificate under it: `make clean`, then `make init`"
)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one profile.

    Parameters
    ----------
    name
        The profile.
    certificate
        What holds now.
    what
        `KEPT`, `MADE`, or in words what was done and why.
    """

    name: str
    certificate: x509.Certificate
    what: str


class Authorities:
    """The authorities whose keys certauth keeps, at one moment.

    Parameters
    ----------
    profiles
        What there is to be, issuers first.
    folders
        Where it lies.
    now
        The present moment.
    """

    def __init__(
        self, profiles: Mapping[str, AuthorityProfile], folders: Folders, now: datetime
    ) -> None:
        self._profiles = profiles
        self._folders = folders
        self._now = now
        self._ready: dict[str, Authority] = {}

    def __getitem__(self, name: str) -> Authority:
        return self._ready[name]

    def make(self) -> list[Done]:
        """Make what is missing, renew what ends soon, leave the rest alone.

        Raises
        ------
        CredentialError
            If an authority is damaged, has lost its key, or says something else
            than its profile; or a file cannot be written.
        """
        return [self._make(name, profile) for name, profile in self._profiles.items()]

    def load(self) -> None:
        """Read authorities that must all be there.

        Raises
        ------
        CredentialError
            If one is missing, damaged, about to end, or not what its profile says.
        """
        for name, profile in self._profiles.items():
            if not self._path(profile.key).exists():
                raise CredentialError(
                    f"{self._path(profile.key)}: the authority {name!r} is not there: "
                    "run `certauth certs` first (`make init` does)"
                )
            authority = self._read(name, profile)
            if ends_soon(authority.credential.certificate, self._now):
                raise CredentialError(
                    f"{self._path(profile.certificate)}: the authority {name!r} ends on "
                    f"{authority.credential.certificate.not_valid_after_utc:%Y-%m-%d}: "
                    "run `certauth certs` first, which renews it with its key"
                )
            self._ready[name] = authority

    def up_to_root(self, name: str) -> tuple[x509.Certificate, ...]:
        """Return the certificates of an authority and of all above it, the root last."""
        issuer = self._profiles[name].issuer
        above = () if issuer is None else self.up_to_root(issuer)
        return (self[name].credential.certificate, *above)

    def _make(self, name: str, profile: AuthorityProfile) -> Done:
        authority, what = self._kept_or_made(name, profile)
        if what != KEPT:
            files = self._folders.credential(profile.certificate, profile.key)
            write_credential(authority.credential, files, mode_of(profile.key))
        self._folders.guard(profile.key)
        self._ready[name] = authority
        certificate = authority.credential.certificate
        self._folders.publish([certificate], profile.copies)
        return Done(name, certificate, what)

    def _kept_or_made(self, name: str, profile: AuthorityProfile) -> tuple[Authority, str]:
        if not self._path(profile.key).exists():
            self._require_never_made(name, profile)
            return self._certify(profile, new_key()), MADE
        if not self._path(profile.certificate).exists():
            key = _on_p384(load_key(self._path(profile.key)), self._path(profile.key))
            return self._certify(profile, key), "made for the key that was there"
        kept = self._read(name, profile)
        if ends_soon(kept.credential.certificate, self._now):
            key = _on_p384(kept.credential.key, self._path(profile.key))
            return self._certify(profile, key), "renewed with the same key"
        return kept, KEPT

    def _require_never_made(self, name: str, profile: AuthorityProfile) -> None:
        """Refuse to make a second authority of a name whose key was lost."""
        for file in (profile.certificate, *profile.copies):
            if self._path(file).exists():
                raise CredentialError(
                    f"{self._path(profile.key)}: the key of the authority {name!r} is gone, and "
                    f"{self._path(file)} shows that there was one. {_REMEDY}"
                )

    def _read(self, name: str, profile: AuthorityProfile) -> Authority:
        files = self._folders.credential(profile.certificate, profile.key)
        try:
            authority = Authority(load_credential(files, None))
            _on_p384(authority.credential.key, files.key)
        except CredentialError as error:
            raise CredentialError(
                f"the authority {name!r} is damaged: {error.message}. {_REMEDY}"
            ) from error
        certificate = authority.credential.certificate
        issuer = authority if profile.issuer is None else self[profile.issuer]
        if not issuer.has_issued(certificate):
            raise CredentialError(
                f"{files.certificate}: the authority {name!r} was not issued by "
                f"{profile.issuer or 'itself'!r}, as its profile says. {_REMEDY}"
            )
        if not profile.terms.describes(certificate):
            raise CredentialError(
                f"{files.certificate}: the authority {name!r} is "
                f"{certificate.subject.rfc4514_string()!r}, and its profile wants "
                f"'CN={profile.subject}', or other uses of it. An authority stays what it was "
                "made: set KME_ID, KME_SITE and the profile back; or give up this PKI with every "
                "certificate under it: `make clean`, then `make init`"
            )
        if not ends_soon(certificate, self._now):
            load_certificates(files.certificate, self._now)  # it may not have begun: a wrong clock
        return authority

    def _certify(self, profile: AuthorityProfile, key: ec.EllipticCurvePrivateKey) -> Authority:
        validity = Validity.lasting(profile.lifetime, self._now)
        if profile.issuer is None:
            return Authority.root(profile.subject, validity, profile.path_length, key)
        chain = self[profile.issuer].certify(profile.terms, key.public_key(), validity)
        return Authority(Credential(chain, key))

    def _path(self, name: str) -> Path:
        return self._folders.path(name)


def ends_soon(certificate: x509.Certificate, now: datetime) -> bool:
    """Return whether a certificate is to be made again already, or has ended."""
    return certificate.not_valid_after_utc < now + RENEW_BEFORE


def _on_p384(key: object, path: Path) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != ec.SECP384R1.name:
        raise CredentialError(f"{path}: the key of an authority must be on the curve P-384")
    return key
