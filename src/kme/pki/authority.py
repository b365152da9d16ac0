"""authority - names and uses in, signed certificates and revocation lists out."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Flag, auto
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kme.errors import CredentialError
from kme.pki.bundle import Credential

BACKDATE: Final = timedelta(hours=1)
"""Certificates start in the past, so that a clock that lags a little accepts them."""

MAX_COMMON_NAME: Final = 64
"""Longest common name (RFC 5280 appendix A.1, ub-common-name); what is longer is cut."""


class TlsRole(Flag):
    """Which side of a TLS connection a certificate may stand on."""

    SERVER = auto()
    CLIENT = auto()


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate or revocation list holds."""

    start: datetime
    end: datetime

    @classmethod
    def lasting(cls, duration: timedelta, now: datetime) -> Self:
        """Return a span that begins a little before `now` and lasts `duration` from it."""
        return cls(now - BACKDATE, now + duration)

    def within(self, other: "Validity") -> "Validity":
        """Return the part of this span that `other` covers too."""
        return Validity(max(self.start, other.start), min(self.end, other.end))


@dataclass(frozen=True, slots=True)
class Leaf:
    """What an end certificate is to say.

    Parameters
    ----------
    common_name
        For people to read; nothing is decided by it.
    roles
        Server, client or both.
    uris
        Identities: ``sae-id:...`` or ``kme-id:...``.
    hosts
        DNS names and IP addresses that a server is reached by.
    """

    common_name: str
    roles: TlsRole
    uris: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def names(self) -> x509.SubjectAlternativeName:
        """Return the subject alternative names.

        Raises
        ------
        CredentialError
            If a host or URI has characters that a certificate cannot hold.
        """
        try:
            hosts = [_host_name(host) for host in self.hosts]
            uris = [x509.UniformResourceIdentifier(uri) for uri in self.uris]
        except ValueError as error:
            raise CredentialError(
                f"{self.common_name}: a host name or URI is not ASCII: {error}"
            ) from error
        return x509.SubjectAlternativeName([*uris, *hosts])

    def describes(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate says just this: names and roles."""
        if certificate.subject != _subject(self.common_name):
            return False
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return False
        return names.value == self.names() and usage.value == _usage(self.roles)


@dataclass(frozen=True, slots=True)
class AuthorityTerms:
    """What an authority's certificate is to say.

    Parameters
    ----------
    common_name
        For people to read; at most `MAX_COMMON_NAME` characters stay.
    path_length
        How many levels of authorities it may make below itself.
    roles
        What leaves below it may be used for: verifiers check the extended key
        usage along the chain. None, for roots: not narrowed.
    """

    common_name: str
    path_length: int
    roles: TlsRole | None = None

    def extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        """Return each extension, and whether it is critical."""
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=self.path_length), True),
            (_key_usage(key_cert_sign=True, crl_sign=True), True),
        ]
        if self.roles is not None:
            extensions.append((_usage(self.roles), False))
        return extensions

    def describes(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate says just this, beside its keys' identifiers."""
        if certificate.subject != _subject(self.common_name):
            return False
        identifiers = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
        try:
            said = [(one.value, one.critical) for one in certificate.extensions]
        except (x509.DuplicateExtension, ValueError):
            return False
        return self.extensions() == [one for one in said if not isinstance(one[0], identifiers)]


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its key: a root, or an issuer under one.

    Keys of authorities are on P-384, those of leaves on P-256 unless a caller
    says otherwise; all signatures are ECDSA with SHA-384.

    Parameters
    ----------
    credential
        Its own certificate and chain.
    """

    credential: Credential

    @classmethod
    def root(
        cls,
        name: str,
        validity: Validity,
        path_length: int = 1,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Self:
        """Make a self-signed root.

        Parameters
        ----------
        name
            For people to read.
        validity
            How long it holds.
        path_length
            How many levels of authorities it allows below itself.
        key
            The key that it had before, so that what was issued stays valid; a
            fresh one if None.
        """
        key = key or new_key()
        subject = _subject(name)
        builder = _builder(subject, subject, key.public_key(), validity)
        builder = _as_authority(builder, AuthorityTerms(name, path_length))
        builder = _linked(builder, key.public_key(), key.public_key())
        return cls(Credential((builder.sign(key, hashes.SHA384()),), key))

    def issue_authority(self, name: str, roles: TlsRole, validity: Validity) -> "Authority":
        """Make an issuing authority for leaves of certain roles only.

        Its path length is 0: it can make no further authorities. The extended
        key usage in it binds what it issues (OpenSSL and browsers check it
        along the chain).
        """
        key = new_key()
        terms = AuthorityTerms(name, 0, roles)
        return Authority(Credential(self.certify(terms, key.public_key(), validity), key))

    def certify(
        self, terms: AuthorityTerms, public_key: ec.EllipticCurvePublicKey, validity: Validity
    ) -> tuple[x509.Certificate, ...]:
        """Make an authority of whoever holds the key to `public_key`.

        Returns
        -------
        tuple of Certificate
            Its certificate, then its issuers in order; the root is left out.
        """
        builder = self._builder_under(_subject(terms.common_name), public_key, validity)
        return (self._sign(_as_authority(builder, terms)), *self.below_root)

    @property
    def below_root(self) -> tuple[x509.Certificate, ...]:
        """What follows a certificate that this authority issues, the root left out."""
        chain = self.credential.chain
        is_root = chain[0].subject == chain[0].issuer
        return () if is_root else chain

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Return whether this authority signed a certificate, its own if it is a root."""
        try:
            certificate.verify_directly_issued_by(self.credential.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def issue(
        self, leaf: Leaf, validity: Validity, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Credential:
        """Make an end certificate, with a fresh key on P-256 unless one is given.

        Raises
        ------
        CredentialError
            If a name of `leaf` cannot stand in a certificate.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = self._builder_under(_subject(leaf.common_name), key.public_key(), validity)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(_usage(leaf.roles), critical=False)
        builder = builder.add_extension(leaf.names(), critical=False)
        return Credential((self._sign(builder), *self.below_root), key)

    def revocation_list(
        self, revoked: Mapping[int, datetime], number: int, validity: Validity
    ) -> x509.CertificateRevocationList:
        """Make a revocation list (RFC 5280 section 5), perhaps an empty one.

        Parameters
        ----------
        revoked
            Serial numbers, and when each was revoked.
        number
            Larger than that of every earlier list of this authority.
        validity
            When it was made and when the next one is due.
        """
        own = self.credential.certificate
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(own.subject)
            .last_update(validity.start)
            .next_update(validity.end)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_authority_identifier(own.public_key()), critical=False)
        )
        for serial, moment in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.credential.key, hashes.SHA384())

    def _builder_under(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, validity: Validity
    ) -> x509.CertificateBuilder:
        own = self.credential.certificate
        mine = Validity(own.not_valid_before_utc, own.not_valid_after_utc)
        builder = _builder(subject, own.subject, public_key, validity.within(mine))
        return _linked(builder, public_key, own.public_key())

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.credential.key, hashes.SHA384())


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key on P-384, as authorities have."""
    return ec.generate_private_key(ec.SECP384R1())


def revoked_serials(revocation_list: x509.CertificateRevocationList) -> dict[int, datetime]:
    """Return which certificates a list revokes, and when each was revoked."""
    return {entry.serial_number: entry.revocation_date_utc for entry in revocation_list}


def list_number(revocation_list: x509.CertificateRevocationList) -> int:
    """Return the number of a revocation list (0 if it has none)."""
    try:
        extension = revocation_list.extensions.get_extension_for_class(x509.CRLNumber)
    except x509.ExtensionNotFound:
        return 0
    return extension.value.crl_number


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start.astimezone(UTC))
        .not_valid_after(validity.end.astimezone(UTC))
    )


def _as_authority(
    builder: x509.CertificateBuilder, terms: AuthorityTerms
) -> x509.CertificateBuilder:
    for extension, is_critical in terms.extensions():
        builder = builder.add_extension(extension, critical=is_critical)
    return builder


def _linked(
    builder: x509.CertificateBuilder,
    own: ec.EllipticCurvePublicKey,
    issuer: CertificatePublicKeyTypes,
) -> x509.CertificateBuilder:
    """Add the key identifiers by which chains are built (RFC 5280 sections 4.2.1.1 and 2)."""
    subject_identifier = x509.SubjectKeyIdentifier.from_public_key(own)
    return builder.add_extension(subject_identifier, critical=False).add_extension(
        _authority_identifier(issuer), critical=False
    )


def _authority_identifier(issuer: CertificatePublicKeyTypes) -> x509.AuthorityKeyIdentifier:
    if not isinstance(issuer, ec.EllipticCurvePublicKey):
        raise CredentialError("an authority's key must be on an elliptic curve")
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _usage(roles: TlsRole) -> x509.ExtendedKeyUsage:
    usages = []
    if TlsRole.SERVER in roles:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    if TlsRole.CLIENT in roles:
        usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
    return x509.ExtendedKeyUsage(usages)


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:MAX_COMMON_NAME])])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
