"""What certauth signs, a real Vault takes; and what it then issues is believed as far as meant."""

from datetime import UTC, datetime
from pathlib import Path

import hvac
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certauth_site import REQUESTS, CertauthSite
from kme.pki.bundle import load_certificates
from real_vault import RealVault


def ask(client: hvac.Client, site: CertauthSite, name: str) -> str:
    """Let Vault make a key and a request; return its mount."""
    mount = f"{site.directory.name}-{name}".lower()
    client.sys.enable_secrets_engine("pki", path=mount, config={"max_lease_ttl": "43800h"})
    answer = client.secrets.pki.generate_intermediate(
        "internal",
        "named by Vault",
        {"key_type": "ec", "key_bits": 384, "exclude_cn_from_sans": True},
        mount_point=mount,
    )
    path = site.path(f"exchange/{name}.csr")
    path.parent.mkdir(exist_ok=True)
    path.write_text(answer["data"]["csr"])
    return mount


def issue(client: hvac.Client, mount: str) -> list[x509.Certificate]:
    """Return a certificate for every purpose, and the chain that Vault gives with it."""
    options = {"allow_any_name": True, "key_type": "ec", "key_bits": 256, "max_ttl": "24h"}
    client.secrets.pki.create_or_update_role("any", options, mount_point=mount)
    answer = client.secrets.pki.generate_certificate("any", "vault.example", mount_point=mount)
    data = answer["data"]
    pem = "\n".join([data["certificate"], *data["ca_chain"]])
    return x509.load_pem_x509_certificates(pem.encode())


def is_believed(chain: list[x509.Certificate], root: x509.Certificate, *, as_server: bool) -> bool:
    builder = PolicyBuilder().store(Store([root]))
    try:
        if as_server:
            builder.build_server_verifier(x509.DNSName("vault.example")).verify(chain[0], chain[1:])
        else:
            builder.build_client_verifier().verify(chain[0], chain[1:])
    except VerificationError:
        return False
    return True


def test_vault_takes_what_was_signed_and_issues_under_it(
    real_vault: RealVault, tmp_path: Path
) -> None:
    site, now = CertauthSite(tmp_path), datetime.now(UTC)
    site.make(now)
    [root] = load_certificates(site.path("exchange/root.pem"), now)
    with real_vault.root_client() as client:
        mounts = {name: ask(client, site, name) for name in REQUESTS}
        assert site.sign(now) == dict.fromkeys(REQUESTS, "signed")
        for name, mount in mounts.items():
            signed = site.path(f"exchange/{name}.pem").read_text()
            for _ in range(2):
                client.secrets.pki.set_signed_intermediate(signed, mount_point=mount)
            chain = issue(client, mount)
            assert chain[1:] == list(load_certificates(site.path(f"exchange/{name}.pem"), now))
            assert is_believed(chain, root, as_server=False)
            assert is_believed(chain, root, as_server=True) == (name != "sae")


def test_an_engine_that_was_set_up_anew_is_signed_when_asked_for_by_name(
    real_vault: RealVault, tmp_path: Path
) -> None:
    site, now = CertauthSite(tmp_path), datetime.now(UTC)
    site.make(now)
    with real_vault.root_client() as client:
        mounts = {name: ask(client, site, name) for name in REQUESTS}
        site.sign(now)
        client.sys.disable_secrets_engine(mounts["kme"])
        mount = ask(client, site, "kme")
        with pytest.raises(Exception, match="--replace kme"):
            site.sign(now)
        site.sign(now, replaced=["kme"])
        signed = site.path("exchange/kme.pem").read_text()
        client.secrets.pki.set_signed_intermediate(signed, mount_point=mount)
        assert issue(client, mount)
