"""An authority inside a real Vault: signs, revokes, and tells what it revoked."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kme.errors import InputError, StoreUnavailableError
from kme.pki.authority import Authority, revoked_serials
from kme.vault.pki import Pki
from real_vault import RealVault, open_session

MOUNT = "pki-sae"


def run(vault: RealVault, work: Callable[[Pki], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with open_session(vault.access()) as session:
            await work(Pki(session, MOUNT))

    asyncio.run(main())


def csr() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ignored")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA384())
    return key, pem_of(request)


def pem_of(made: x509.Certificate | x509.CertificateSigningRequest) -> str:
    return made.public_bytes(Encoding.PEM).decode()


def signed_authority(root: Authority, request_pem: str) -> x509.Certificate:
    request = x509.load_pem_x509_csr(request_pem.encode())
    own = root.credential.certificate
    # Vault makes no revocation lists without this right and the identifier.
    usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    identifier = x509.SubjectKeyIdentifier.from_public_key(request.public_key())
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    return (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(own.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(own.not_valid_before_utc)
        .not_valid_after(own.not_valid_after_utc)
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(root.credential.key, hashes.SHA384())
    )


@pytest.fixture(scope="module", autouse=True)
def _authority(real_vault: RealVault) -> None:
    root = real_vault.root
    with real_vault.root_client() as client:
        pki = client.secrets.pki
        client.sys.enable_secrets_engine("pki", path=MOUNT)
        client.sys.enable_secrets_engine("pki", path="pki-empty")
        answer = pki.generate_intermediate(
            "internal", "saes", {"key_type": "ec", "key_bits": 384}, mount_point=MOUNT
        )
        signed = signed_authority(root, answer["data"]["csr"])
        chain = pem_of(signed) + pem_of(root.credential.certificate)
        pki.set_signed_intermediate(chain, mount_point=MOUNT)
        role = {
            "allow_any_name": True,
            "enforce_hostnames": False,
            "allowed_uri_sans": "sae-id:*",
            "use_csr_sans": False,
            "use_csr_common_name": False,
            "key_type": "ec",
            "key_bits": 256,
            "ttl": "1h",
            "max_ttl": "2h",
        }
        pki.create_or_update_role("sae", role, mount_point=MOUNT)


class TestSign:
    def test_gives_the_chain_without_the_root(self, real_vault: RealVault) -> None:
        async def work(pki: Pki) -> None:
            key, request = csr()
            chain = [
                x509.load_pem_x509_certificate(pem.encode())
                for pem in await pki.sign("sae", request, "alice", ["sae-id:alice"])
            ]
            leaf, issuer = chain
            assert leaf.public_key() == key.public_key()
            leaf.verify_directly_issued_by(issuer)
            issuer.verify_directly_issued_by(real_vault.root.credential.certificate)
            assert pem_of(issuer) == await pki.issuer()

        run(real_vault, work)

    def test_says_what_was_asked_for_and_nothing_else(self, real_vault: RealVault) -> None:
        async def work(pki: Pki) -> None:
            _, request = csr()
            pem, *_ = await pki.sign(
                "sae",
                request,
                "alice",
                ["sae-id:alice"],
                ["kme-1.example", "10.0.0.1", "::1"],
                timedelta(minutes=5),
            )
            leaf = x509.load_pem_x509_certificate(pem.encode())
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["sae-id:alice"]
            assert names.get_values_for_type(x509.DNSName) == ["kme-1.example"]
            addresses = names.get_values_for_type(x509.IPAddress)
            assert sorted(map(str, addresses)) == ["10.0.0.1", "::1"]
            assert leaf.subject.rfc4514_string() == "CN=alice"
            assert leaf.not_valid_after_utc < datetime.now(UTC) + timedelta(minutes=6)

        run(real_vault, work)

    def test_keeps_to_the_role(self, real_vault: RealVault) -> None:
        async def work(pki: Pki) -> None:
            _, request = csr()
            with pytest.raises(InputError, match="not valid for this role"):
                await pki.sign("sae", request, "kme-a", ["kme-id:kme-a"])
            with pytest.raises(InputError, match="unknown role"):
                await pki.sign("other", request, "alice", ["sae-id:alice"])
            with pytest.raises(InputError):
                await pki.sign("sae", "no request", "alice", ["sae-id:alice"])

        run(real_vault, work)


class TestRevoke:
    def test_is_in_the_list_at_once(self, real_vault: RealVault) -> None:
        async def work(pki: Pki) -> None:
            _, request = csr()
            for _ in range(3):
                pem, *_ = await pki.sign("sae", request, "alice", ["sae-id:alice"])
                serial = x509.load_pem_x509_certificate(pem.encode()).serial_number
                assert serial not in await revoked(pki)
                await pki.revoke(serial)
                assert serial in await revoked(pki)

        run(real_vault, work)

    def test_is_so_also_where_the_list_renews_itself(self, real_vault: RealVault) -> None:
        with real_vault.root_client() as client:
            client.write_data(f"{MOUNT}/config/crl", data={"auto_rebuild": True})
        self.test_is_in_the_list_at_once(real_vault)

    def test_of_a_serial_that_was_never_given_is_an_error(self, real_vault: RealVault) -> None:
        async def work(pki: Pki) -> None:
            with pytest.raises(InputError, match="not found"):
                await pki.revoke(0x0123)

        run(real_vault, work)


class TestAnAuthorityThatIsNotThere:
    @pytest.mark.parametrize("mount", ["pki-empty", "pki-absent"])
    def test_gives_nothing(self, real_vault: RealVault, mount: str) -> None:
        async def main() -> None:
            async with open_session(real_vault.access()) as session:
                pki = Pki(session, mount)
                for attempt in (pki.crl(), pki.issuer()):
                    with pytest.raises(StoreUnavailableError, match="vault_init"):
                        await attempt

        asyncio.run(main())


async def revoked(pki: Pki) -> set[int]:
    return set(revoked_serials(x509.load_pem_x509_crl((await pki.crl()).encode())))
