"""profiles - certs/profiles.toml in, every certificate that certauth answers for out, checked."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import or_
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from kme.bootstrap.folders import Place, place_of
from kme.errors import CredentialError, SettingsError
from kme.pki.authority import MAX_COMMON_NAME, AuthorityTerms, Leaf, TlsRole


def _file_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or ".." in parts or len(parts) < 2 or parts[0] not in set(Place):
        msg = f"{name!r} must be FOLDER/NAME with FOLDER one of {', '.join(Place)}"
        raise ValueError(msg)
    return name


def _private(name: str) -> str:
    if place_of(name) is not Place.CA:
        msg = f"{name!r} must lie in ca/, which is certauth's alone"
        raise ValueError(msg)
    return name


def _not_public(name: str) -> str:
    if place_of(name) is Place.EXCHANGE:
        msg = f"{name!r} must not lie in exchange/, which is public"
        raise ValueError(msg)
    return name


def _subject(text: str, info: ValidationInfo) -> str:
    """Fill in who this site is; what is cut off could make two sites look alike."""
    known: Mapping[str, str] = info.context or {}
    text = re.sub(r"{(\w+)}", lambda found: known.get(found[1], found[0]), text)
    if not 0 < len(text) <= MAX_COMMON_NAME:
        msg = (
            f"{text!r} must have 1 to {MAX_COMMON_NAME} characters: "
            "shorten KME_SITE or the subject (KME_ID, if it is not in use yet)"
        )
        raise ValueError(msg)
    return text


_FileName = Annotated[str, AfterValidator(_file_name)]
_PrivateFile = Annotated[_FileName, AfterValidator(_private)]
_SecretFile = Annotated[_FileName, AfterValidator(_not_public)]
_RoleName = Literal["server", "client"]
_ROLES: Final[Mapping[str, TlsRole]] = {"server": TlsRole.SERVER, "client": TlsRole.CLIENT}


class _Profile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Annotated[str, AfterValidator(_subject)]
    lifetime_days: Annotated[int, Field(ge=1, le=7300)]
    roles: tuple[_RoleName, ...] = ()
    certificate: _FileName
    copies: tuple[_FileName, ...] = ()

    @property
    def lifetime(self) -> timedelta:
        """How long the certificate is to hold."""
        return timedelta(days=self.lifetime_days)

    @property
    def tls_roles(self) -> TlsRole:
        """What the certificate, or all below it, may be used for."""
        return reduce(or_, (_ROLES[role] for role in self.roles), TlsRole(0))

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that certauth writes for it."""
        return (self.certificate, *self.copies)


class AuthorityProfile(_Profile):
    """An authority whose key certauth keeps."""

    kind: Literal["authority"]
    issuer: str | None = None
    path_length: Annotated[int, Field(ge=0, le=2)]
    certificate: _PrivateFile
    key: _PrivateFile

    @property
    def terms(self) -> AuthorityTerms:
        """What its certificate is to say."""
        return AuthorityTerms(self.subject, self.path_length, self.tls_roles or None)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that certauth writes for it."""
        return (self.certificate, self.key, *self.copies)


class RequestProfile(_Profile):
    """An authority whose key somebody else keeps, who asks for a certificate."""

    kind: Literal["request"]
    issuer: str
    path_length: Annotated[int, Field(ge=0, le=2)]
    roles: Annotated[tuple[_RoleName, ...], Field(min_length=1)]
    request: _FileName
    certificate: _PrivateFile

    @property
    def terms(self) -> AuthorityTerms:
        """What its certificate is to say."""
        return AuthorityTerms(self.subject, self.path_length, self.tls_roles)


class Pkcs12Profile(BaseModel):
    """A leaf's credential once more, as one file under a password."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: _SecretFile
    password: _PrivateFile


class LeafProfile(_Profile):
    """An end certificate with its key."""

    kind: Literal["leaf"]
    issuer: str
    roles: Annotated[tuple[_RoleName, ...], Field(min_length=1)]
    uris: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    key: _SecretFile
    pkcs12: Pkcs12Profile | None = None

    @property
    def leaf(self) -> Leaf:
        """What its certificate is to say."""
        return Leaf(self.subject, self.tls_roles, self.uris, self.hosts)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that certauth writes for it."""
        bundle = (self.pkcs12.file,) if self.pkcs12 else ()
        return (self.certificate, self.key, *bundle, *self.copies)

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if not self.uris and not self.hosts:
            msg = "a leaf needs uris or hosts: nothing is decided by its subject"
            raise ValueError(msg)
        try:
            self.leaf.names()
        except CredentialError as error:
            raise ValueError(error.message) from error
        return self


Profile: TypeAlias = AuthorityProfile | RequestProfile | LeafProfile

_TABLES: Final = TypeAdapter[dict[str, Profile]](
    dict[str, Annotated[Profile, Field(discriminator="kind")]]
)


@dataclass(frozen=True, slots=True)
class Profiles:
    """All certificates, in the order of the file: an issuer stands before what it issues."""

    tables: Mapping[str, Profile]

    @property
    def files(self) -> frozenset[str]:
        """Every file that certauth writes."""
        passwords = (leaf.pkcs12.password for leaf in self.leaves.values() if leaf.pkcs12)
        return frozenset(passwords).union(*(profile.files for profile in self.tables.values()))

    @property
    def authorities(self) -> dict[str, AuthorityProfile]:
        """The authorities whose keys certauth keeps."""
        return {k: v for k, v in self.tables.items() if isinstance(v, AuthorityProfile)}

    @property
    def leaves(self) -> dict[str, LeafProfile]:
        """The end certificates."""
        return {k: v for k, v in self.tables.items() if isinstance(v, LeafProfile)}

    @property
    def requests(self) -> dict[str, RequestProfile]:
        """The authorities that ask for a certificate."""
        return {k: v for k, v in self.tables.items() if isinstance(v, RequestProfile)}


def load_profiles(path: Path, kme: str, site: str) -> Profiles:
    """Read and check the profiles, and fill in who this site is.

    Raises
    ------
    SettingsError
        If the file cannot be read, isn't TOML, or a profile is wrong or at
        odds with another; the message names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        tables = _TABLES.validate_python(values, context={"kme": kme, "site": site})
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in fault['loc']) or 'file'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(f"{path}: {faults}") from error
    if fault := _disagreement(tables):
        raise SettingsError(f"{path}: {fault}")
    return Profiles(tables)


def _disagreement(tables: Mapping[str, Profile]) -> str | None:
    """Return what is wrong between profiles: issuers in order, narrower below, no file twice."""
    above: dict[str, AuthorityProfile] = {}
    seen: set[str] = set()
    for name, profile in tables.items():
        if len(set(profile.files)) != len(profile.files):
            return f"{name}: a file is named twice"
        if twice := seen.intersection(profile.files):
            return f"{name}: {min(twice)} belongs to a profile above"
        seen.update(profile.files)
        if profile.issuer is not None:
            issuer = above.get(profile.issuer)
            if issuer is None:
                return f"{name}: issuer {profile.issuer!r} must be an authority above it"
            if fault := _exceeds(profile, issuer):
                return f"{name}: {fault}"
        if isinstance(profile, AuthorityProfile):
            above[name] = profile
    return None


def _exceeds(profile: Profile, issuer: AuthorityProfile) -> str | None:
    """Return in what a certificate would go beyond its issuer, so that nobody believed it."""
    if not isinstance(profile, LeafProfile) and profile.path_length >= issuer.path_length:
        return f"path_length must be below {issuer.path_length}, that of its issuer"
    if issuer.roles and not set(profile.roles) <= set(issuer.roles):
        return f"roles must be among those of its issuer: {', '.join(issuer.roles)}"
    if not profile.roles:
        return "roles must be given below a root"
    return None
