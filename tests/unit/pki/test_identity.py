from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kme.errors import IdentityError
from kme.pki.identity import KME_PREFIX, SAE_PREFIX, uri_identity

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def certificate(*names: x509.GeneralName, common_name: str = "anyone") -> x509.Certificate:
    """Return a self-signed certificate with these alternative names, or without any."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("name", ["alice", "a", "sae-id:alice", "a/b?c#d", "kme-id:x"])
def test_what_follows_the_prefix_is_the_identity(name: str) -> None:
    assert uri_identity(certificate(uri(SAE_PREFIX + name)), SAE_PREFIX) == name


def test_other_names_beside_it_do_not_matter() -> None:
    shown = certificate(
        uri("kme-id:kme-a"), uri("sae-id:alice"), uri("https://x"), x509.DNSName("sae-id:bob")
    )
    assert uri_identity(shown, SAE_PREFIX) == "alice"
    assert uri_identity(shown, KME_PREFIX) == "kme-a"


@pytest.mark.parametrize(
    "shown",
    [
        certificate(),
        certificate(common_name="sae-id:alice"),
        certificate(x509.DNSName("sae-id:alice")),
        certificate(x509.RFC822Name("sae-id:alice")),
        certificate(uri("kme-id:alice")),
        certificate(uri("SAE-ID:alice")),
        certificate(uri(" sae-id:alice")),
    ],
)
def test_no_such_uri_is_no_identity(shown: x509.Certificate) -> None:
    with pytest.raises(IdentityError, match="no URI"):
        uri_identity(shown, SAE_PREFIX)


@pytest.mark.parametrize("second", ["sae-id:bob", "sae-id:alice", "sae-id:"])
def test_two_such_uris_are_no_identity(second: str) -> None:
    with pytest.raises(IdentityError, match="more than one"):
        uri_identity(certificate(uri("sae-id:alice"), uri(second)), SAE_PREFIX)


def test_an_empty_name_is_no_identity() -> None:
    with pytest.raises(IdentityError, match="names nobody"):
        uri_identity(certificate(uri("sae-id:")), SAE_PREFIX)


def test_names_that_cannot_be_read_are_no_identity() -> None:
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05garba")
    key = ec.generate_private_key(ec.SECP256R1())
    shown = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(broken, critical=False)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(IdentityError, match="cannot be read"):
        uri_identity(shown, SAE_PREFIX)
