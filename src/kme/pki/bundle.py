"""bundle - certificates, chains and keys: PEM and PKCS#12 in, checked objects out, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from kme.errors import CredentialError, InputError
from kme.files import write_whole
from kme.secret import Secret

MAX_FILE_BYTES: Final = 1 << 20
"""No certificate, key or revocation list is larger; a bigger file is something else."""

_KEY_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644

SigningKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)
"""The kinds of key that TLS certificates have here."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key and the certificates that speak for it.

    Parameters
    ----------
    chain
        The leaf first, then its issuers in order; the root is left out.
    key
        The leaf's private key; it does not print.
    """

    chain: tuple[x509.Certificate, ...]
    key: SigningKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """Where a credential lies.

    Parameters
    ----------
    certificate
        The certificate and its issuers, PEM.
    key
        Its private key, PEM.
    """

    certificate: Path
    key: Path


def write_credential(
    credential: Credential,
    files: CredentialFiles,
    key_mode: int = _KEY_MODE,
    certificate_mode: int = _PUBLIC_MODE,
) -> None:
    """Write the key, then the chain, each file whole; the key for its owner only by default.

    Raises
    ------
    CredentialError
        If a file cannot be written.
    """
    pem = credential.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(files.key, pem, key_mode)
    write_certificates(credential.chain, files.certificate, certificate_mode)


def write_certificates(
    certificates: Sequence[x509.Certificate], path: Path, mode: int = _PUBLIC_MODE
) -> None:
    """Write certificates one after another, in the order given.

    Raises
    ------
    CredentialError
        If the file cannot be written.
    """
    _write(path, b"".join(c.public_bytes(Encoding.PEM) for c in certificates), mode)


def write_pkcs12(
    credential: Credential, name: str, password: Secret, path: Path, mode: int = _KEY_MODE
) -> None:
    """Write a credential as browsers and key stores import it (RFC 7292), AES-256 and SHA-256.

    Raises
    ------
    CredentialError
        If the file cannot be written.
    """
    data = pkcs12.serialize_key_and_certificates(
        name.encode(),
        credential.key,
        credential.certificate,
        credential.chain[1:],
        BestAvailableEncryption(password.reveal()),
    )
    _write(path, data, mode)


def load_pkcs12(path: Path, password: Secret) -> Credential:
    """Read a credential from a PKCS#12 file.

    Raises
    ------
    CredentialError
        If the file cannot be read, is damaged, has another password, or lacks
        the key or its certificate.
    """
    try:
        read = pkcs12.load_pkcs12(_read(path), password.reveal())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path}: is damaged, or has another password") from error
    if not isinstance(read.key, SigningKey) or read.cert is None:
        raise CredentialError(f"{path}: holds no key with its certificate")
    issuers = (one.certificate for one in read.additional_certs)
    return Credential((read.cert.certificate, *issuers), read.key)


def write_revocation_list(revocation_list: x509.CertificateRevocationList, path: Path) -> None:
    """Write a revocation list.

    Raises
    ------
    CredentialError
        If the file cannot be written.
    """
    _write(path, revocation_list.public_bytes(Encoding.PEM), _PUBLIC_MODE)


def load_credential(files: CredentialFiles, at: datetime | None) -> Credential:
    """Read a chain and its key, and check that they can be used at a moment (None: at any).

    Raises
    ------
    CredentialError
        If a file cannot be read or is not PEM, the key is encrypted or belongs
        to another certificate, or a certificate is expired or not yet valid.
        The message names the file.
    """
    chain = load_certificates(files.certificate, at)
    key = load_key(files.key)
    if key.public_key() != chain[0].public_key():
        raise CredentialError(
            f"{files.key}: this key does not belong to the first certificate of {files.certificate}"
        )
    return Credential(chain, key)


def load_certificates(path: Path, at: datetime | None) -> tuple[x509.Certificate, ...]:
    """Read one or more certificates that must be valid at a moment (None: at any).

    Raises
    ------
    CredentialError
        If the file cannot be read, holds no certificate, or holds one that is
        expired or not yet valid.
    """
    try:
        certificates = tuple(x509.load_pem_x509_certificates(_read(path)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path}: no PEM certificates can be read from this file") from error
    if at is not None:
        for certificate in certificates:
            _require_valid(path, certificate, at)
    return certificates


def load_revocation_list(path: Path, at: datetime | None) -> x509.CertificateRevocationList:
    """Read a revocation list that must be current at a moment (None: at any).

    Raises
    ------
    CredentialError
        If the file cannot be read, is no revocation list, or is out of date.
    """
    try:
        revocation_list = x509.load_pem_x509_crl(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path}: this is not a PEM revocation list") from error
    due = revocation_list.next_update_utc
    if at is not None and (due is None or due <= at):
        raise CredentialError(
            f"{path}: the revocation list is out of date since {_day(due)}: fetch a new one"
        )
    return revocation_list


def load_request(path: Path) -> x509.CertificateSigningRequest:
    """Read a certificate signing request (RFC 2986) that its own key has signed.

    Raises
    ------
    CredentialError
        If the file cannot be read, is no request, or its signature is wrong.
    """
    try:
        request = x509.load_pem_x509_csr(_read(path))
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path}: this is not a PEM certificate signing request") from error
    if not is_signed:
        raise CredentialError(f"{path}: the request's signature is wrong: make the request again")
    return request


def load_key(path: Path) -> SigningKey:
    """Read a private key.

    Raises
    ------
    CredentialError
        If the file cannot be read, is no PEM key, is encrypted, or cannot sign.
    """
    data = _read(path)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise CredentialError(
            f"{path}: the key is encrypted; store it without a password and "
            "protect the file instead"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path}: this is not a PEM private key") from error
    if not isinstance(key, SigningKey):
        raise CredentialError(f"{path}: a key of this kind cannot sign")
    return key


def _require_valid(path: Path, certificate: x509.Certificate, at: datetime) -> None:
    name = certificate.subject.rfc4514_string()
    if at > certificate.not_valid_after_utc:
        raise CredentialError(
            f"{path}: the certificate {name!r} expired on {_day(certificate.not_valid_after_utc)}"
        )
    if at < certificate.not_valid_before_utc:
        raise CredentialError(
            f"{path}: the certificate {name!r} is valid only from "
            f"{_day(certificate.not_valid_before_utc)}: is the clock right?"
        )


def _day(moment: datetime | None) -> str:
    return "an unknown day" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CredentialError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise CredentialError(f"{path}: longer than {MAX_FILE_BYTES} bytes: not a PEM file")
    return data


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, data, mode)
    except OSError as error:
        raise CredentialError(f"{path}: cannot be written: {error.strerror}") from error
    except InputError as error:
        raise CredentialError(error.message) from error
