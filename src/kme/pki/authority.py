"""authority - names and uses in, signed certificates and revocation lists out."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Flag, auto
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kme.errors import CredentialError
from kme.pki.bundle import Credential

BACKDATE: Final = timedelta(hours=1)
"""Certificates start in the past, so that a clock that lags a little accepts them."""

_MAX_COMMON_NAME: Final = 64


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
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return False
        return names.value == self.names() and usage.value == _usage(self.roles)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its key: a root, or an issuer under one.

    Keys of authorities are on P-384, those of leaves on P-256; all signatures
    are ECDSA with SHA-384.

    Parameters
    ----------
    credential
        Its own certificate and chain.
    """

    credential: Credential

    @classmethod
    def root(cls, name: str, validity: Validity) -> Self:
        """Make a self-signed root that allows one level of issuing authorities."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _subject(name)
        builder = _builder(subject, subject, key.public_key(), validity)
        builder = _as_authority(builder, path_length=1)
        builder = _linked(builder, key.public_key(), key.public_key())
        return cls(Credential((builder.sign(key, hashes.SHA384()),), key))

    def issue_authority(self, name: str, roles: TlsRole, validity: Validity) -> "Authority":
        """Make an issuing authority for leaves of certain roles only.

        Its path length is 0: it can make no further authorities. The extended
        key usage in it binds what it issues (OpenSSL and browsers check it
        along the chain).
        """
        key = ec.generate_private_key(ec.SECP384R1())
        builder = self._builder_under(_subject(name), key.public_key(), validity)
        builder = _as_authority(builder, path_length=0)
        builder = builder.add_extension(_usage(roles), critical=False)
        return Authority(Credential((self._sign(builder), *self._issuers()), key))

    def issue(self, leaf: Leaf, validity: Validity) -> Credential:
        """Make an end certificate with a fresh key on P-256.

        Raises
        ------
        CredentialError
            If a name of `leaf` cannot stand in a certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder_under(_subject(leaf.common_name), key.public_key(), validity)
        builder = builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(_usage(leaf.roles), critical=False)
        builder = builder.add_extension(leaf.names(), critical=False)
        return Credential((self._sign(builder), *self._issuers()), key)

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

    def _issuers(self) -> tuple[x509.Certificate, ...]:
        chain = self.credential.chain
        is_root = chain[0].subject == chain[0].issuer
        return () if is_root else chain

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.credential.key, hashes.SHA384())


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


def _as_authority(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


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
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME])])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
