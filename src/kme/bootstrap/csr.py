"""csr - signing requests of Vault's authorities in, their certificates out.

Of a request only the public key is taken; what the certificate says stands in
its profile. What was signed is recorded in certauth's own folder: a request
that comes back with another key would cut off all that hangs under the old
one, and is refused until somebody asks for it by name.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from kme.bootstrap.authorities import KEPT, Authorities, Done, ends_soon
from kme.bootstrap.folders import Folders
from kme.bootstrap.profiles import Profiles, RequestProfile
from kme.errors import CredentialError, SettingsError
from kme.pki.authority import Validity
from kme.pki.bundle import load_certificates, load_request

SIGNED: Final = "signed"

_GRANTED: Final = (x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier)
"""Extensions that a request may hold; their values come from the profile all the same."""


def sign_requests(
    profiles: Profiles, folders: Folders, now: datetime, replaced: Collection[str] = ()
) -> list[Done]:
    """Sign what asks to be an authority and is described as one.

    All requests are checked before the first is signed. What was signed for
    the same key, says what its profile says and does not end soon is left
    alone byte for byte.

    Each result is published as the certificate, then its issuers, the root
    last: Vault wants it so, to build whole chains of what it issues.

    Parameters
    ----------
    profiles
        What each may be.
    folders
        Where requests and authorities lie.
    now
        The present moment.
    replaced
        Names of those that may come with another key than last time.

    Raises
    ------
    SettingsError
        If `replaced` names none of them.
    CredentialError
        If a request is missing, damaged, asks for what is not given, or holds
        another key than last time; or an authority cannot be used.
    """
    if unknown := set(replaced) - profiles.requests.keys():
        raise SettingsError(
            f"--replace {min(unknown)}: must be one of {', '.join(profiles.requests)}"
        )
    now = now.replace(microsecond=0)
    authorities = Authorities(profiles.authorities, folders, now)
    authorities.load()
    signer = _Signer(authorities, folders, now, replaced)
    keys = {name: signer.key_of(name, profile) for name, profile in profiles.requests.items()}
    own = {name: authorities[name].credential.key.public_key() for name in profiles.authorities}
    _require_distinct({**own, **keys})
    return [signer.sign(name, profile, keys[name]) for name, profile in profiles.requests.items()]


class _Signer:
    """The requests at one moment."""

    def __init__(
        self, authorities: Authorities, folders: Folders, now: datetime, replaced: Collection[str]
    ) -> None:
        self._authorities = authorities
        self._folders = folders
        self._now = now
        self._replaced = replaced

    def key_of(self, name: str, profile: RequestProfile) -> ec.EllipticCurvePublicKey:
        """Return the key to be certified: that of the request, checked against the last one."""
        path = self._folders.path(profile.request)
        recorded = self._recorded(name, profile)
        if not path.exists():
            if recorded is None:
                raise CredentialError(
                    f"{path}: there is no signing request of {name!r}: "
                    "run `vault_init --first` before `certauth csr` (`make init` does)"
                )
            return _key_on_p384(recorded[0], str(self._folders.path(profile.certificate)))
        request = load_request(path)
        key = _key_on_p384(request, str(path))
        _require_modest(request, str(path))
        if recorded is not None and recorded[0].public_key() != key:
            raise CredentialError(
                f"{path}: {name!r} asks with another key than it was signed for before. Was Vault "
                "set up anew? Then sign it by `certauth csr --replace "
                f"{name}`: every certificate that was issued under the old key stops being valid, "
                "and other KMEs have to be connected again. If nobody set Vault up anew, find out "
                "who wrote this request"
            )
        return key

    def sign(self, name: str, profile: RequestProfile, key: ec.EllipticCurvePublicKey) -> Done:
        recorded = self._recorded(name, profile)
        what = SIGNED if recorded is None else self._fault(profile, recorded)
        if recorded is None or what != KEPT:
            recorded = self._certify(profile, key)
            self._folders.publish(recorded, [profile.certificate])
        self._folders.publish(recorded, profile.copies)
        return Done(name, recorded[0], what)

    def _recorded(self, name: str, profile: RequestProfile) -> tuple[x509.Certificate, ...] | None:
        """Return what was signed before, or None if nothing was, or it may be replaced."""
        path = self._folders.path(profile.certificate)
        if not path.exists() or name in self._replaced:
            return None
        try:
            return load_certificates(path, None)
        except CredentialError as error:
            copies = ", ".join(str(self._folders.path(copy)) for copy in profile.copies)
            raise CredentialError(
                f"{error.message}. It records what was signed for {name!r}: put it back from its "
                f"copy ({copies}) or a backup, or sign anew by `certauth csr --replace {name}`"
            ) from error

    def _fault(self, profile: RequestProfile, recorded: tuple[x509.Certificate, ...]) -> str:
        """Return why a recorded certificate cannot stay, or `KEPT`."""
        certificate, *above = recorded
        if not profile.terms.describes(certificate):
            return "signed again: it said something else than its profile"
        if not self._authorities[profile.issuer].has_issued(certificate):
            return "signed again: another authority had issued it"
        if tuple(above) != self._authorities.up_to_root(profile.issuer):
            return "signed again: an authority above it was renewed"
        if ends_soon(certificate, self._now):
            return f"signed again: it ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
        if certificate.not_valid_before_utc > self._now:
            return "signed again: by the clock it was not valid yet"
        return KEPT

    def _certify(
        self, profile: RequestProfile, key: ec.EllipticCurvePublicKey
    ) -> tuple[x509.Certificate, ...]:
        issuer = self._authorities[profile.issuer]
        validity = Validity.lasting(profile.lifetime, self._now)
        certificate = issuer.certify(profile.terms, key, validity)[0]
        return (certificate, *self._authorities.up_to_root(profile.issuer))


def _key_on_p384(
    holder: x509.Certificate | x509.CertificateSigningRequest, where: str
) -> ec.EllipticCurvePublicKey:
    key = holder.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP384R1.name:
        raise CredentialError(f"{where}: its key must be on the curve P-384")
    return key


def _require_modest(request: x509.CertificateSigningRequest, where: str) -> None:
    """Refuse a request for more than the profile gives: who asked so expects to get it."""
    try:
        extensions = list(request.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        raise CredentialError(f"{where}: the extensions it asks for cannot be read") from error
    for extension in extensions:
        value = extension.value
        if not isinstance(value, _GRANTED) or (
            isinstance(value, x509.BasicConstraints) and value.path_length not in {None, 0}
        ):
            raise CredentialError(
                f"{where}: it asks for {type(value).__name__} ({extension.oid.dotted_string}), "
                "which is not given: what the certificate holds stands in its profile; make the "
                "request again without it"
            )


def _require_distinct(keys: Mapping[str, object]) -> None:
    """Refuse one key in two roles: what one issues would pass as issued by the other."""
    names = list(keys)
    for index, name in enumerate(names):
        for other in names[:index]:
            if keys[name] == keys[other]:
                raise CredentialError(
                    f"{name!r} and {other!r} have the same key: each authority needs its own; "
                    "was a request copied to another's name?"
                )
