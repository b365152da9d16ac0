"""What a site has after certauth and vault_init, and that another run leaves it alone."""

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hvac.exceptions import Forbidden

from fresh_vault import FreshVault, fresh_vault
from kme.bootstrap.access import open_client
from kme.bootstrap.places import Places
from kme.bootstrap.roles import Site
from kme.bootstrap.root_token import root_session
from kme.bootstrap.second import run_second
from kme.bootstrap.shares import read_shares
from kme.ids import KmeId, SaeId
from kme.pki.bundle import CredentialFiles, load_certificates, load_credential, load_pkcs12
from kme.pki.tls import client_context, server_context
from kme.secret import Secret
from vault_configuration import read_configuration

NOW = datetime.now(UTC)


def contents(vault: FreshVault) -> dict[str, tuple[bytes, int]]:
    places = vault.places
    return {
        str(path.relative_to(vault.directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for folder in (places.exchange, places.state, places.out)
        for path in folder.rglob("*")
        if path.is_file()
    }


def says(path: Path) -> tuple[set[str], set[str], set[str]]:
    """URIs, hosts and uses of a certificate."""
    certificate = load_certificates(path, NOW)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    short = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
    return (
        set(names.get_values_for_type(x509.UniformResourceIdentifier)),
        set(names.get_values_for_type(x509.DNSName)),
        {short[use] for use in uses},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshVault]:
    """Give a site that tests change, one after another."""
    with fresh_vault(tmp_path_factory.mktemp("changing") / "site") as vault:
        vault.set_up()
        yield vault


class TestAnInstalledSite:
    def test_has_every_certificate_with_just_its_names(self, installed: FreshVault) -> None:
        out = installed.places.out
        for service in ("unsealer", "watcher", "rest", "operator", "metrics"):
            assert says(out / service / "client.pem") == (
                {f"service-id:{service}"},
                set(),
                {"client"},
            )
        host, kme = {"kme-1.example.org"}, {"kme-id:kme-1"}
        assert says(out / "traefik/hop.pem") == ({"service-id:traefik"}, set(), {"client"})
        assert says(out / "traefik/kme.pem") == (kme, host, {"server"})
        assert says(out / "rest/kme.pem") == (kme, host, {"client"})
        assert says(out / "rest/server.pem") == ({"service-id:rest"}, {"rest"}, {"server"})
        assert says(out / "sae/sae-kme-1/sae.pem") == ({"sae-id:sae-kme-1"}, set(), {"client"})

    def test_gives_secrets_to_one_group_only(self, installed: FreshVault) -> None:
        for path in installed.places.out.rglob("*"):
            if path.is_file():
                offline = path.name == "offline-shares.json"
                assert path.stat().st_mode & 0o777 == (0o600 if offline else 0o640), path

    def test_splits_the_shares(self, installed: FreshVault) -> None:
        own = read_shares(installed.places.unsealer_shares)
        offline = read_shares(installed.places.offline_shares)
        assert (len(own), len(offline)) == (3, 2)
        assert all(one != other for one in own for other in offline)

    def test_can_be_unsealed_by_the_offline_shares_and_one_more(
        self, installed: FreshVault
    ) -> None:
        own = read_shares(installed.places.unsealer_shares)
        offline = read_shares(installed.places.offline_shares)
        with root_session(open_client(installed.address), [*offline, own[0]]):
            pass

    def test_has_an_sae_whose_bundle_opens_with_its_password(self, installed: FreshVault) -> None:
        folder = installed.places.out / "sae/sae-kme-1"
        password = Secret((folder / "password").read_bytes().strip())
        files = CredentialFiles(folder / "sae.pem", folder / "sae-key.pem")
        assert load_pkcs12(folder / "sae.p12", password).chain == load_credential(files, NOW).chain

    def test_registers_that_sae_as_the_registry_reads_it(self, installed: FreshVault) -> None:
        from kme.registry.records import SaeEntry

        document = read_configuration(installed)["documents"]["registry/saes"]["data"]
        entry = SaeEntry.from_json(document["saes"]["sae-kme-1"])
        folder = installed.places.out / "sae/sae-kme-1"
        (serial,) = entry.serials
        certificate = load_certificates(folder / "sae.pem", NOW)[0]
        assert entry.is_active
        assert int(serial.replace(":", ""), 16) == certificate.serial_number

    def test_shows_sae_and_peer_certificates_that_hold_up_to_the_root(
        self, installed: FreshVault
    ) -> None:
        out = installed.places.out
        root = load_certificates(out / "sae/sae-kme-1/root.pem", NOW)
        store = x509.verification.Store(list(root))
        for name in ("traefik/kme",):
            chain = load_certificates(out / f"{name}.pem", NOW)
            verifier = (
                x509.verification.PolicyBuilder()
                .store(store)
                .build_server_verifier(x509.DNSName("kme-1.example.org"))
            )
            verifier.verify(chain[0], list(chain[1:]))

    def test_lets_rest_and_traefik_believe_each_other(self, installed: FreshVault) -> None:
        rest, traefik = installed.places.out / "rest", installed.places.out / "traefik"
        server = CredentialFiles(rest / "server.pem", rest / "server-key.pem")
        client = CredentialFiles(traefik / "hop.pem", traefik / "hop-key.pem")
        inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = server_context(server, rest / "services-ca.pem").wrap_bio(
            inside, outside, server_side=True
        )
        context = client_context(client, traefik / "rest-ca.pem", "service-id:rest")
        other = context.wrap_bio(outside, inside, server_hostname="rest")
        for _ in range(3):
            for end in (other, one):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        assert one.getpeercert()

    def test_has_a_front_that_believes_nobody_by_default(self, installed: FreshVault) -> None:
        traefik = installed.places.out / "traefik"
        nobody = load_certificates(traefik / "nobody-ca.pem", NOW)
        assert load_certificates(traefik / "peers-ca.pem", NOW) == nobody

    def test_has_engines_set_up_as_they_should_be(self, installed: FreshVault) -> None:
        found = read_configuration(installed)
        assert {"pki-services/", "pki-kme/", "pki-sae/", "kme/"} <= set(found["mounts"])
        assert found["kv"] == {
            "cas_required": True,
            "max_versions": 1,
            "delete_version_after": "0s",
        }
        assert [device["options"] for device in found["audit"].values()] == [
            {"file_path": str(installed.audit)}
        ]
        for authority in found["authorities"].values():
            assert len(authority["keys"]) == 1
            assert authority["acme"]["enabled"] is False
            assert authority["crl"]["auto_rebuild"] is True
            for role in authority["roles"].values():
                assert role["allow_any_name"] is False
                assert role["server_flag"] != role["client_flag"]

    def test_keeps_no_root_token(self, installed: FreshVault) -> None:
        client = open_client(installed.address)
        with root_session(client, read_shares(installed.places.unsealer_shares)):
            token = client.token
        client.token = token
        with pytest.raises(Forbidden):
            client.auth.token.lookup_self()

    def test_has_no_secret_in_its_state_or_exchange(self, installed: FreshVault) -> None:
        places = installed.places
        for folder in (places.state, places.exchange):
            for path in folder.rglob("*"):
                data = path.read_bytes() if path.is_file() else b""
                assert b"PRIVATE" not in data
                assert b"hvs." not in data


class TestAnotherRun:
    @pytest.mark.parametrize("run", ["--first", "--second"])
    def test_changes_nothing_and_takes_no_root_token(self, installed: FreshVault, run: str) -> None:
        configuration, files = read_configuration(installed), contents(installed)
        audited = installed.audit.stat().st_size
        done = installed.run(run)
        assert done.returncode == 0, done.stderr
        assert "nothing_to_do" in done.stderr
        assert installed.audit.stat().st_size == audited  # not one request but for the seal
        assert contents(installed) == files
        assert read_configuration(installed) == configuration

    def test_that_forgot_changes_nothing_in_vault(self, installed: FreshVault) -> None:
        configuration, files = read_configuration(installed), contents(installed)
        for name in ("first", "second"):
            (installed.places.state / name).unlink()
            done = installed.run(f"--{name}")
            assert done.returncode == 0, done.stderr
            assert "step_done" not in done.stderr
        assert {name: data for name, (data, _) in contents(installed).items()} == {
            name: data for name, (data, _) in files.items()
        }
        assert read_configuration(installed) == configuration


class TestASiteThatChanges:
    """Each test on the same site, one after another."""

    def test_gets_a_lost_or_spoilt_certificate_again(self, site: FreshVault) -> None:
        out = site.places.out
        before = contents(site)
        (out / "rest/client.pem").unlink()
        (out / "watcher/client-key.pem").write_bytes((out / "rest/client-key.pem").read_bytes())
        assert site.run("--second").returncode == 0
        after = contents(site)
        changed = {name for name in after if after[name] != before.get(name)}
        assert changed == {
            "out/rest/client.pem",
            "out/rest/client-key.pem",
            "out/watcher/client.pem",
            "out/watcher/client-key.pem",
            "state/second",
        }

    def test_loads_a_policy_that_changed(self, site: FreshVault) -> None:
        path = site.places.policies / "metrics.hcl"
        path.write_text(path.read_text() + "\n# more\n")
        done = site.run("--second")
        assert "step='policy metrics is loaded'" in done.stderr
        assert done.stderr.count("step_done") == 1

    def test_follows_its_host_to_another_name_or_address(self, site: FreshVault) -> None:
        door, rest = (site.places.out / name for name in ("traefik/kme.pem", "rest/client.pem"))
        kept = rest.read_bytes()
        assert site.run("--second", KME_HOST="192.0.2.7").returncode == 0
        names = load_certificates(door, NOW)[0].extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert [str(one) for one in names.value.get_values_for_type(x509.IPAddress)] == [
            "192.0.2.7"
        ]
        assert site.run("--second").returncode == 0
        assert says(door)[1] == {"kme-1.example.org"}
        assert rest.read_bytes() == kept

    def test_renews_what_ends_soon(self, site: FreshVault) -> None:
        later = datetime.now(UTC) + timedelta(days=380)
        rest = site.places.out / "rest/client.pem"
        sae = site.places.out / "sae/sae-kme-1/sae.pem"
        old = {path: path.read_bytes() for path in (rest, sae)}
        run_second(
            open_client(site.address),
            site.places,
            Site(KmeId("kme-1"), "kme-1.example.org", SaeId("sae-kme-1"), site.url),
            lambda: later,
        )
        assert all(path.read_bytes() != data for path, data in old.items())
        registered = read_configuration(site)["documents"]["registry/saes"]["data"]["saes"]
        assert len(registered["sae-kme-1"]["serials"]) == 2

    def test_does_not_bring_back_what_an_operator_took_away(self, site: FreshVault) -> None:
        folder = site.places.out / "sae/sae-kme-1"
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        (site.places.state / "second").unlink()
        assert site.run("--second").returncode == 0
        assert not folder.exists()

    def test_leaves_the_authorities_of_connected_peers_alone(self, site: FreshVault) -> None:
        peers = site.places.out / "traefik/peers-ca.pem"
        peers.write_bytes((site.places.exchange / "kme.pem").read_bytes())
        (site.places.state / "second").unlink()
        assert site.run("--second").returncode == 0
        assert peers.read_bytes() == (site.places.exchange / "kme.pem").read_bytes()

    def test_takes_up_an_authority_that_was_renewed_under_its_key(self, site: FreshVault) -> None:
        sae = site.places.exchange / "sae.pem"
        sae.unlink()
        site.sign()
        done = site.run("--second")
        assert done.returncode == 0, done.stderr
        assert (site.places.out / "rest/sae-ca.pem").read_bytes() in sae.read_bytes()
        found = read_configuration(site)["authorities"]["sae"]
        assert (len(found["keys"]), len(found["issuers"])) == (1, 2)
        assert "step_done" not in site.run("--second").stderr

    def test_unseals_before_it_works(self, site: FreshVault) -> None:
        site.stop()
        site.start()
        done = site.run("--first")
        assert done.returncode == 0, done.stderr
        assert "vault_unsealed" in done.stderr

    def test_refuses_a_certificate_of_another_key(self, site: FreshVault) -> None:
        sae, kme = site.places.exchange / "sae.pem", site.places.exchange / "kme.pem"
        own = sae.read_bytes()
        sae.write_bytes(kme.read_bytes())
        done = site.run("--second")
        sae.write_bytes(own)
        assert done.returncode == 1
        assert "certifies another key" in done.stderr

    def test_refuses_an_empty_vault_with_shares_of_another(self, site: FreshVault) -> None:
        shares = site.places.unsealer_shares.read_bytes()
        site.empty()
        done = site.run("--first")
        assert done.returncode == 1
        assert "is the right data volume mounted?" in done.stderr
        assert site.places.unsealer_shares.read_bytes() == shares
        assert site.run("--second").returncode == 1

    def test_begins_anew_after_a_clean_with_its_old_files_about(self, site: FreshVault) -> None:
        site.places.unsealer_shares.unlink()
        site.places.offline_shares.unlink()
        assert site.run("--first").returncode == 0
        site.sign(replaced=("services", "kme", "sae"))
        done = site.run("--second")
        assert done.returncode == 0, done.stderr
        assert says(site.places.out / "rest/client.pem")[0] == {"service-id:rest"}
        client = open_client(site.address_of("rest"))
        assert client.auth.cert.login(name="rest")["auth"]["token_policies"] == ["rest"]


class TestAVaultThatIsNotOurs:
    def test_is_refused(self, tmp_path: Path) -> None:
        with fresh_vault(tmp_path / "site") as vault:
            client = open_client(vault.address)
            client.sys.initialize(1, 1)
            done = vault.run("--first")
        assert done.returncode == 1
        assert "somebody else initialised it" in done.stderr

    def test_is_made_anew_if_our_own_run_died_over_it(self, tmp_path: Path) -> None:
        with fresh_vault(tmp_path / "site") as vault:
            vault.places.initialising.touch()
            open_client(vault.address).sys.initialize(5, 3)
            done = vault.run("--first")
            assert done.returncode == 3
            assert "remove its data volume" in done.stderr
            vault.empty()
            assert vault.run("--first").returncode == 0
            assert not vault.places.initialising.exists()


class TestBadInput:
    def test_is_told_when_vault_does_not_answer(
        self, installed: FreshVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kme.bootstrap.first._WAIT_S", 0.3)
        from kme.bootstrap.access import wait_until_answering
        from kme.errors import StoreUnavailableError

        address = installed.address
        client = open_client(type(address)("https://127.0.0.1:9", address.ca, address.credential))
        with pytest.raises(StoreUnavailableError, match="is it running"):
            wait_until_answering(client, 0.3)

    def test_shows_no_secret_whatever_is_logged(self, installed: FreshVault) -> None:
        (installed.places.state / "second").unlink()
        (installed.places.out / "metrics/client.pem").unlink()
        done = installed.run("--second", KME_LOG__LEVEL="DEBUG")
        assert done.returncode == 0
        said = done.stdout + done.stderr
        shares = json.loads(installed.places.unsealer_shares.read_text())["shares"]
        digest_key = read_configuration(installed)["documents"]["site/digest-key"]["data"]["key"]
        for secret in (*shares, digest_key, "hvs.", "PRIVATE KEY"):
            assert secret not in said


def test_a_certificate_of_an_sae_or_kme_does_not_reach_vault(installed: FreshVault) -> None:
    out = installed.places.out
    for name in ("rest/kme", "sae/sae-kme-1/sae"):
        credential = CredentialFiles(out / f"{name}.pem", out / f"{name}-key.pem")
        client = open_client(
            type(installed.address)(installed.url, installed.address.ca, credential)
        )
        with pytest.raises(requests.exceptions.ConnectionError):
            client.sys.read_seal_status()


def test_places_are_where_the_containers_have_them() -> None:
    places = Places(Path("/exchange"), Path("/state"), Path("/policies"), Path("/out"))
    assert str(places.unsealer_shares) == "/out/unsealer/shares.json"
    assert str(places.offline_shares) == "/out/shares/offline-shares.json"
