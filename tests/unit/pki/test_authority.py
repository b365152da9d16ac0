from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    PolicyBuilder,
    Store,
    VerificationError,
)

from kme.errors import CredentialError
from kme.pki.authority import (
    BACKDATE,
    Authority,
    AuthorityTerms,
    Leaf,
    TlsRole,
    Validity,
    list_number,
    new_key,
    revoked_serials,
)
from kme.pki.bundle import Credential

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
YEAR = Validity.lasting(timedelta(days=365), NOW)
ROOT = Authority.root("root", Validity.lasting(timedelta(days=3650), NOW))
BOTH = TlsRole.SERVER | TlsRole.CLIENT


def issuer(roles: TlsRole = BOTH, root: Authority = ROOT) -> Authority:
    return root.issue_authority("issuer", roles, YEAR)


def extension(
    certificate: x509.Certificate, kind: type[x509.ExtensionType]
) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def verify_client(credential: Credential, at: datetime = NOW) -> list[x509.GeneralName] | None:
    """Verify a client's chain up to the root by an independent implementation."""
    verifier = (
        PolicyBuilder().store(Store([ROOT.credential.certificate])).time(at).build_client_verifier()
    )
    return verifier.verify(credential.certificate, list(credential.chain[1:])).subjects


def verify_server(credential: Credential, host: str, at: datetime = NOW) -> None:
    verifier = (
        PolicyBuilder()
        .store(Store([ROOT.credential.certificate]))
        .time(at)
        .build_server_verifier(x509.DNSName(host))
    )
    verifier.verify(credential.certificate, list(credential.chain[1:]))


def test_a_client_certificate_verifies_and_has_its_uri() -> None:
    credential = issuer().issue(Leaf("alice", TlsRole.CLIENT, ("sae-id:alice",)), YEAR)
    assert verify_client(credential) == [x509.UniformResourceIdentifier("sae-id:alice")]


def test_a_server_certificate_verifies_for_its_hosts_only() -> None:
    leaf = Leaf("kme", TlsRole.SERVER, ("kme-id:a",), ("kme.example", "192.0.2.7", "::1"))
    credential = issuer().issue(leaf, YEAR)
    verify_server(credential, "kme.example")
    with pytest.raises(VerificationError):
        verify_server(credential, "other.example")
    names = extension(credential.certificate, x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "::1"]


def test_a_client_certificate_does_not_serve() -> None:
    leaf = Leaf("alice", TlsRole.CLIENT, (), ("kme.example",))
    with pytest.raises(VerificationError):
        verify_server(issuer().issue(leaf, YEAR), "kme.example")


def test_an_issuer_for_clients_cannot_make_servers() -> None:
    leaf = Leaf("kme", TlsRole.SERVER, (), ("kme.example",))
    with pytest.raises(VerificationError):
        verify_server(issuer(TlsRole.CLIENT).issue(leaf, YEAR), "kme.example")


@pytest.mark.parametrize(
    ("roles", "usages"),
    [
        (TlsRole.SERVER, {ExtendedKeyUsageOID.SERVER_AUTH}),
        (TlsRole.CLIENT, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        (BOTH, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_a_leaf_has_just_the_uses_it_was_made_for(
    roles: TlsRole, usages: set[x509.ObjectIdentifier]
) -> None:
    certificate = issuer().issue(Leaf("x", roles, ("kme-id:x",)), YEAR).certificate
    usage = extension(certificate, x509.ExtendedKeyUsage).value
    assert isinstance(usage, x509.ExtendedKeyUsage)
    assert set(usage) == usages
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    key_usage = extension(certificate, x509.KeyUsage)
    assert key_usage.critical
    assert isinstance(key_usage.value, x509.KeyUsage)
    assert key_usage.value.digital_signature
    assert not key_usage.value.key_cert_sign


def test_issuers_can_make_no_authorities() -> None:
    below = issuer().issue_authority("below", TlsRole.CLIENT, YEAR)
    credential = below.issue(Leaf("alice", TlsRole.CLIENT, ("sae-id:alice",)), YEAR)
    with pytest.raises(VerificationError):
        verify_client(credential)
    constraints = extension(issuer().credential.certificate, x509.BasicConstraints)
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_authorities_are_on_p384_and_serial_numbers_random() -> None:
    authorities = [ROOT, issuer(), issuer()]
    keys = [authority.credential.certificate.public_key() for authority in authorities]
    for key in keys:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp384r1"
    serials = {authority.credential.certificate.serial_number for authority in authorities}
    assert len(serials) == 3
    assert all(serial > 1 << 64 for serial in serials)


def test_chains_leave_the_root_out() -> None:
    made = issuer()
    credential = made.issue(Leaf("x", TlsRole.CLIENT), YEAR)
    assert len(ROOT.credential.chain) == 1
    assert credential.chain[1:] == made.credential.chain
    assert ROOT.credential.certificate not in credential.chain


def test_validity_is_backdated_and_ends_with_the_issuers() -> None:
    long = Validity.lasting(timedelta(days=9999), NOW)
    made = issuer()
    certificate = made.issue(Leaf("x", TlsRole.CLIENT), long).certificate
    assert certificate.not_valid_before_utc == NOW - BACKDATE
    assert certificate.not_valid_after_utc == YEAR.end
    assert made.credential.certificate.not_valid_after_utc == YEAR.end


def test_an_expired_certificate_does_not_verify() -> None:
    credential = issuer().issue(Leaf("x", TlsRole.CLIENT, ("sae-id:x",)), YEAR)
    verify_client(credential, YEAR.end - timedelta(seconds=1))
    with pytest.raises(VerificationError):
        verify_client(credential, YEAR.end + timedelta(seconds=1))


def test_a_revocation_list_names_what_was_revoked() -> None:
    made = issuer()
    serial = made.issue(Leaf("x", TlsRole.CLIENT), YEAR).certificate.serial_number
    empty = made.revocation_list({}, 1, YEAR)
    revoked = made.revocation_list({serial: NOW}, 2, YEAR)
    assert revoked_serials(empty) == {}
    assert revoked_serials(revoked) == {serial: NOW}
    assert (list_number(empty), list_number(revoked)) == (1, 2)
    for one in (empty, revoked):
        assert one.is_signature_valid(made.credential.certificate.public_key())  # type: ignore[arg-type]
        assert one.next_update_utc == YEAR.end


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf("x", TlsRole.SERVER, (), ("kmé.example",)),
        Leaf("x", TlsRole.CLIENT, ("sae-id:ü",)),
    ],
)
def test_names_that_are_not_ascii_are_refused(leaf: Leaf) -> None:
    with pytest.raises(CredentialError, match="not ASCII"):
        issuer().issue(leaf, YEAR)


def test_a_long_name_is_cut_only_where_nothing_depends_on_it() -> None:
    name = "n" * 128
    leaf = Leaf(name, TlsRole.CLIENT, (f"sae-id:{name}",))
    assert verify_client(issuer().issue(leaf, YEAR)) == [
        x509.UniformResourceIdentifier(f"sae-id:{name}")
    ]


def test_a_leaf_knows_whether_a_certificate_says_the_same() -> None:
    leaf = Leaf("kme", BOTH, ("kme-id:a",), ("127.0.0.1",))
    certificate = issuer().issue(leaf, YEAR).certificate
    assert leaf.describes(certificate)
    assert not Leaf("kme", BOTH, ("kme-id:b",), ("127.0.0.1",)).describes(certificate)
    assert not Leaf("kme", BOTH, ("kme-id:a",), ("127.0.0.2",)).describes(certificate)
    assert not Leaf("kme", TlsRole.SERVER, ("kme-id:a",), ("127.0.0.1",)).describes(certificate)
    assert not leaf.describes(ROOT.credential.certificate)


def test_authorities_may_stand_as_deep_as_the_root_allows() -> None:
    key = new_key()
    root = Authority.root("root", Validity.lasting(timedelta(days=3650), NOW), 2, key)
    assert root.credential.key is key
    middle_key, last_key = new_key(), new_key()
    middle_chain = root.certify(AuthorityTerms("middle", 1, BOTH), middle_key.public_key(), YEAR)
    middle = Authority(Credential(middle_chain, middle_key))
    last_chain = middle.certify(AuthorityTerms("last", 0, BOTH), last_key.public_key(), YEAR)
    assert last_chain[1:] == middle_chain
    last = Authority(Credential(last_chain, last_key))
    credential = last.issue(Leaf("x", TlsRole.CLIENT, ("sae-id:x",)), YEAR, new_key())
    verifier = PolicyBuilder().store(Store([root.credential.certificate])).time(NOW)
    verifier.build_client_verifier().verify(credential.certificate, list(credential.chain[1:]))
    assert [one.subject.rfc4514_string() for one in credential.chain] == [
        "CN=x", "CN=last", "CN=middle",
    ]  # fmt: skip


def test_a_root_renewed_with_its_key_still_vouches_for_what_it_issued() -> None:
    key = new_key()
    old = Authority.root("root", YEAR, key=key)
    credential = issuer(root=old).issue(Leaf("x", TlsRole.CLIENT, ("sae-id:x",)), YEAR)
    renewed = Authority.root("root", Validity.lasting(timedelta(days=900), NOW), key=key)
    verifier = PolicyBuilder().store(Store([renewed.credential.certificate])).time(NOW)
    verifier.build_client_verifier().verify(credential.certificate, list(credential.chain[1:]))


def test_an_authority_knows_what_it_has_issued() -> None:
    made = issuer()
    assert ROOT.has_issued(ROOT.credential.certificate)
    assert ROOT.has_issued(made.credential.certificate)
    assert not issuer().has_issued(made.issue(Leaf("x", TlsRole.CLIENT), YEAR).certificate)
    assert not made.has_issued(ROOT.credential.certificate)


def test_terms_know_whether_a_certificate_says_the_same() -> None:
    terms = AuthorityTerms("issuer", 0, BOTH)
    certificate = issuer().credential.certificate
    assert terms.describes(certificate)
    assert AuthorityTerms("root", 1).describes(ROOT.credential.certificate)
    for other in (
        AuthorityTerms("other", 0, BOTH),
        AuthorityTerms("issuer", 1, BOTH),
        AuthorityTerms("issuer", 0, TlsRole.CLIENT),
        AuthorityTerms("issuer", 0),
    ):
        assert not other.describes(certificate)
    leaf = issuer().issue(Leaf("issuer", BOTH, ("kme-id:x",)), YEAR).certificate
    assert not terms.describes(leaf)


def test_a_leaf_is_told_apart_by_its_subject_too() -> None:
    leaf = Leaf("kme", BOTH, ("kme-id:a",))
    certificate = issuer().issue(leaf, YEAR).certificate
    assert not Leaf("other", BOTH, ("kme-id:a",)).describes(certificate)
