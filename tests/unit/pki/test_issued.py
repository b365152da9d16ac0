"""What a TLS server would have refused is refused here too."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.errors import IdentityError
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.issued import is_authority, require_issued

DAY = Validity.lasting(timedelta(days=1), datetime.now(UTC))
ROOT = Authority.root("root", DAY)
SAES = ROOT.issue_authority("SAEs", TlsRole.CLIENT, DAY)
IMPOSTOR = ROOT.issue_authority("SAEs", TlsRole.CLIENT, DAY)
AUTHORITY = SAES.credential.certificate
ALICE = Leaf("alice", TlsRole.CLIENT, ("sae-id:alice",))


def test_what_the_authority_issued_to_a_client_is_right() -> None:
    require_issued(SAES.issue(ALICE, DAY).certificate, AUTHORITY)


@pytest.mark.parametrize(
    "certificate",
    [
        IMPOSTOR.issue(ALICE, DAY).certificate,
        ROOT.issue(ALICE, DAY).certificate,
        SAES.issue(Leaf("s", TlsRole.SERVER, ("sae-id:alice",)), DAY).certificate,
        AUTHORITY,
    ],
)
def test_anything_else_is_not(certificate: x509.Certificate) -> None:
    with pytest.raises(IdentityError):
        require_issued(certificate, AUTHORITY)


def crafted(**left_out: bool) -> x509.Certificate:
    """Return a certificate of the right authority with something missing or too much."""
    template = SAES.issue(ALICE, DAY)
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.certificate.subject)
        .issuer_name(AUTHORITY.subject)
        .public_key(template.certificate.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(DAY.start)
        .not_valid_after(DAY.end)
    )
    is_ca = left_out.get("is_ca", False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=is_ca, path_length=None), critical=True
    )
    if not left_out.get("key_usage"):
        signs = not left_out.get("signature")
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=signs,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_ca,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    if not left_out.get("extended"):
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    if left_out.get("unknown"):
        oid = x509.ObjectIdentifier("1.2.3.4")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\5\0"), critical=True)
    return builder.sign(SAES.credential.key, hashes.SHA384())


def test_a_crafted_certificate_with_everything_is_right() -> None:
    require_issued(crafted(), AUTHORITY)


@pytest.mark.parametrize("fault", ["is_ca", "key_usage", "signature", "extended", "unknown"])
def test_a_crafted_certificate_with_a_fault_is_not(fault: str) -> None:
    with pytest.raises(IdentityError):
        require_issued(crafted(**{fault: True}), AUTHORITY)


def test_an_authority_is_told_from_a_client() -> None:
    assert is_authority(AUTHORITY)
    assert not is_authority(SAES.issue(ALICE, DAY).certificate)
