"""SAEs are issued and revoked by the operator's own certificate, on a real Vault."""

import stat
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from kme.ids import SaeId
from kme.pki.bundle import CredentialFiles, load_credential, load_pkcs12
from kme.pki.identity import SAE_PREFIX, uri_identity
from kme.secret import Secret
from operator_site import OperatorSite


def revoked(site: OperatorSite) -> set[int]:
    """Return the serials on the list that anybody may fetch."""
    import http.client

    from kme.pki.tls import client_context

    address = site.vault.address_of("rest")
    context = client_context(address.credential, address.ca)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", site.vault.port, timeout=9, context=context
    )
    connection.request("GET", "/v1/pki-sae/crl/pem")
    found = x509.load_pem_x509_crl(connection.getresponse().read())
    connection.close()
    return {entry.serial_number for entry in found}


def listed(site: OperatorSite) -> dict[str, dict[str, Any]]:
    return {row["sae"]: row for row in site.ask("sae", "list")["saes"]}


def credential_of(site: OperatorSite, name: str) -> Any:
    folder = site.issued / name
    files = CredentialFiles(folder / "sae.pem", folder / "sae-key.pem")
    return load_credential(files, datetime.now(UTC))


def test_an_sae_gets_all_it_needs_and_nobody_else_can_read_it(site: OperatorSite) -> None:
    shown = site.do("sae", "add", "dora")
    assert str(site.issued / "dora") in shown
    folder = site.issued / "dora"
    assert {path.name for path in folder.iterdir()} == {
        "sae.pem",
        "sae-key.pem",
        "sae.p12",
        "password",
        "root.pem",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    credential = credential_of(site, "dora")
    assert uri_identity(credential.certificate, SAE_PREFIX) == "dora"
    password = Secret((folder / "password").read_bytes().strip())
    assert load_pkcs12(folder / "sae.p12", password).certificate == credential.certificate
    root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
    credential.chain[-1].verify_directly_issued_by(root)
    row = listed(site)["dora"]
    assert (row["kme"], row["removed"], row["certificates"]) == ("kme-1", None, 1)


def test_a_name_that_is_taken_is_refused_unless_it_is_renewed(site: OperatorSite) -> None:
    site.do("sae", "add", "emil")
    first = credential_of(site, "emil").certificate.serial_number
    assert "fetch and remove it first" in site.refuses("sae", "add", "emil")
    for path in (site.issued / "emil").iterdir():
        path.unlink()
    (site.issued / "emil").rmdir()
    assert "registered already" in site.refuses("sae", "add", "emil")
    site.do("sae", "add", "emil", "--renew")
    assert credential_of(site, "emil").certificate.serial_number != first
    assert listed(site)["emil"]["certificates"] == 2


def test_all_certificates_of_a_revoked_sae_are_on_the_list(site: OperatorSite) -> None:
    site.do("sae", "add", "fritz")
    serials = {credential_of(site, "fritz").certificate.serial_number}
    site.do("sae", "add", "fritz", "--renew")
    serials.add(credential_of(site, "fritz").certificate.serial_number)
    assert not serials & revoked(site)
    assert site.ask("sae", "revoke", "fritz")["certificates_revoked"] == 2
    assert serials <= revoked(site)
    assert not (site.issued / "fritz").exists()
    assert listed(site)["fritz"]["removed"] is not None
    assert "its id is free in 25" in site.refuses("sae", "add", "fritz")
    assert "2 of its certificates" in site.do("sae", "revoke", "fritz")


def test_the_sae_of_the_first_start_can_be_revoked(site: OperatorSite) -> None:
    (name,) = [path.name for path in (site.vault.places.out / "sae").iterdir()]
    folder = site.vault.places.out / "sae" / name
    certificate = x509.load_pem_x509_certificates((folder / "sae.pem").read_bytes())[0]
    assert listed(site)[name]["removed"] is None
    site.do("sae", "revoke", name)
    assert certificate.serial_number in revoked(site)


def test_an_sae_that_never_was_is_not_revoked(site: OperatorSite) -> None:
    assert "'nobody' is not registered" in site.refuses("sae", "revoke", "nobody")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a b", "x" * 65, "-x y", "ü"])
def test_a_name_that_could_be_a_path_is_refused(site: OperatorSite, name: str) -> None:
    before = set(site.issued.parent.iterdir())
    line = site.refuses("sae", "add", "--", name)
    assert "letters, digits" in line or "visible ASCII" in line
    assert set(site.issued.parent.iterdir()) - before <= {site.issued}


def test_a_peers_sae_is_not_issued_to_here(site: OperatorSite) -> None:
    async def learn(documents: Any) -> None:
        saes = {"gustav": {"since": 1.0, "removed": None}}
        await documents.write("registry/peers/kme-2", {"counter": 1, "saes": saes}, 0)

    site.as_service("rest", learn)
    assert "registered at KME kme-2" in site.refuses("sae", "add", str(SaeId("gustav")))
    assert listed(site)["gustav"]["kme"] == "kme-2"
