"""The rest service as gunicorn runs it, on a real Vault, with a real peer."""

import os
import signal
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from kme.errors import HandshakeError, IdentityError
from kme.ids import SaeId
from kme.pair import HOST
from kme.pki.bundle import CredentialFiles
from kme.pki.tls import client_context
from kme.registry.peers import forget_site, write_site
from pair_on_host import ALICE, BOB, EVE
from rest_site import CAROL, PEER, RestSite


def exchange(site: RestSite) -> None:
    """Hand one key over in each direction."""
    site.exchange(ALICE, BOB)


def can_exchange(site: RestSite) -> bool:
    return site.can_exchange(ALICE, BOB)


def n_sockets(pid: int) -> int:
    descriptors = Path(f"/proc/{pid}/fd").iterdir()
    return sum(str(fd.readlink()).startswith("socket:") for fd in descriptors)


class TestServing:
    def test_keys_go_over_in_both_directions(self, serving: RestSite) -> None:
        for _ in range(20):
            exchange(serving)

    @pytest.mark.parametrize(
        ("master", "slaves"),
        [
            (ALICE, (BOB, EVE, CAROL)),
            (BOB, (ALICE, CAROL)),
            (BOB, (CAROL, ALICE)),
            (ALICE, (CAROL,)),
            (CAROL, (ALICE, BOB, EVE)),
        ],
    )
    def test_several_slaves_and_saes_of_one_kme_get_keys(
        self, serving: RestSite, master: SaeId, slaves: tuple[SaeId, ...]
    ) -> None:
        for _ in range(4):  # each worker has its turn
            serving.share(master, *slaves)

    def test_all_workers_serve(self, serving: RestSite) -> None:
        before = {pid: n_sockets(pid) for pid in serving.workers()}
        assert len(before) == 2
        with ExitStack() as stack:
            for _ in range(40):
                client = stack.enter_context(serving.service_client("operator"))
                answer = client.get(f"https://{HOST}:{serving.port}/health/live")
                assert answer.json() == {"status": "alive"}
            for pid, n_before in before.items():
                assert n_sockets(pid) > n_before, "a worker got nothing to do"

    def test_the_file_of_the_health_check_is_fresh(self, serving: RestSite) -> None:
        time.sleep(1.5)
        assert time.time() - (serving.run / "alive").stat().st_mtime < 2

    def test_nothing_secret_is_in_the_log(self, serving: RestSite) -> None:
        log = serving.log.read_text()
        assert "hvs." not in log
        assert "PRIVATE KEY" not in log


class TestWhoMayCall:
    @pytest.mark.parametrize("path", ["/health/live", "/api/v1/keys/bob/status"])
    def test_without_a_certificate_nobody(self, serving: RestSite, path: str) -> None:
        context = ssl.create_default_context(cafile=serving.folder / "tls/services-ca.pem")
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client = httpx.Client(verify=context, trust_env=False)
        with client, pytest.raises(httpx.TransportError):
            client.get(f"https://{HOST}:{serving.port}{path}")

    def test_an_sae_that_goes_around_the_proxy_is_refused(self, serving: RestSite) -> None:
        own = serving.pair.pki.sae_certificates[ALICE]
        with client_of(serving, own) as client, pytest.raises(httpx.TransportError):
            client.get(f"https://{HOST}:{serving.port}/api/v1/keys/bob/status")

    def test_tls_1_2_is_refused(self, serving: RestSite) -> None:
        own = CredentialFiles(*(serving.folder / f"tls/{n}.pem" for n in ("hop", "hop-key")))
        context = client_context(own, serving.folder / "tls/services-ca.pem")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = httpx.Client(verify=context, trust_env=False)
        with client, pytest.raises(httpx.TransportError):
            client.get(f"https://{HOST}:{serving.port}/health/live")

    @pytest.mark.parametrize("service", ["operator", "client"])
    def test_other_services_get_no_keys(self, serving: RestSite, service: str) -> None:
        with serving.service_client(service) as client:
            answer = client.get(f"https://{HOST}:{serving.port}/api/v1/keys/bob/status")
            assert answer.status_code == 401

    def test_the_operator_asks_the_elected_worker(self, serving: RestSite) -> None:
        back = f"https://{HOST}:{serving.back_port}"
        with serving.service_client("operator") as client:
            answer = client.get(f"{back}/admin/v1/status")
            assert answer.status_code == 200
            assert answer.json()["peers"][PEER]["is_alive"]
            assert client.post(f"{back}/admin/v1/reload").status_code == 200
            assert client.post(f"{back}/kme/v1/kme-a/heartbeat").status_code == 401
        for service in ("hop", "client"):
            with serving.service_client(service) as client:
                assert client.get(f"{back}/admin/v1/status").status_code == 401

    def test_a_peer_without_a_forwarded_certificate_is_nobody(self, serving: RestSite) -> None:
        with serving.service_client("hop") as client:
            answer = client.post(f"https://{HOST}:{serving.back_port}/kme/v1/kme-a/heartbeat")
            assert answer.status_code in {401, 404}

    def test_whoever_is_revoked_gets_nothing_more(self, serving: RestSite) -> None:
        async def status() -> None:
            async with serving.sae(CAROL) as carol:
                await carol.status(BOB)

        serving.call(status())
        serving.revoke(CAROL)
        revoked_s = time.monotonic()

        def is_refused() -> bool:
            try:
                serving.call(status())
            except (IdentityError, HandshakeError):
                return True
            return False

        # Each worker learns it by itself.
        serving.wait_until(lambda: all(is_refused() for _ in range(8)), 10)
        assert time.monotonic() - revoked_s < 5
        exchange(serving)


class TestFaults:
    def test_another_worker_takes_over_when_the_elected_one_is_killed(
        self, serving: RestSite
    ) -> None:
        elected = serving.elected()
        assert elected in serving.workers()
        os.kill(elected, signal.SIGKILL)
        took_s = serving.wait_until(lambda: serving.elected() not in {None, elected})
        assert took_s < 1
        serving.wait_until(serving.is_serving, 5)
        serving.wait_until(lambda: can_exchange(serving), 5)
        assert len(serving.workers()) == 2

    def test_any_number_of_kills_leads_to_no_disagreement(self, serving: RestSite) -> None:
        for _ in range(4):
            for pid in serving.workers():
                os.kill(pid, signal.SIGKILL)
            serving.wait_until(serving.is_serving, 15)
            serving.feed(2)
            serving.wait_until(lambda: can_exchange(serving), 15)
        with serving.service_client("operator") as client:
            status = client.get(f"https://{HOST}:{serving.back_port}/admin/v1/status").json()
            assert status["incidents"] == []

    def test_vault_is_sealed_and_unsealed(self, serving: RestSite) -> None:
        serving.vault.seal()
        serving.wait_until(lambda: serving.ready()[0] == 503, 10)
        assert not can_exchange(serving)
        serving.vault.unseal()
        assert serving.wait_until(serving.is_serving, 15) < 10
        serving.wait_until(lambda: can_exchange(serving), 10)

    def test_vault_is_killed_and_comes_back(self, serving: RestSite) -> None:
        serving.vault.kill()
        serving.wait_until(lambda: serving.ready()[0] == 503, 10)
        with serving.service_client("operator") as client:
            assert client.get(f"https://{HOST}:{serving.port}/health/live").status_code == 200
        serving.vault.start()
        serving.vault.unseal()
        assert serving.wait_until(serving.is_serving, 20) < 10
        serving.wait_until(lambda: can_exchange(serving), 10)

    def test_a_peer_that_goes_is_told_and_comes_back(self, serving: RestSite) -> None:
        serving.host.kill(PEER)
        serving.wait_until(lambda: not serving.is_serving(), 10)
        assert serving.ready()[0] == 200, "readiness is this KME's own"
        serving.host.start(PEER)
        serving.wait_until(lambda: can_exchange(serving), 20)


class TestLife:
    def test_a_peer_is_disconnected_and_connected_again(self, serving: RestSite) -> None:
        async def disconnect() -> None:
            async with serving.documents() as documents:
                await forget_site(documents, PEER)

        async def connect() -> None:
            async with serving.documents() as documents:
                await write_site(documents, serving.site)

        def is_disconnected() -> bool:
            status, body = serving.ready()
            return status == 200 and "make connect" in body["peers"][PEER]

        serving.call(disconnect())
        serving.wait_until(is_disconnected, 15)
        serving.call(connect())
        serving.wait_until(serving.is_serving, 15)
        serving.wait_until(lambda: can_exchange(serving), 15)

    def test_it_stops_when_asked_and_the_next_one_is_elected_at_once(
        self, serving: RestSite
    ) -> None:
        begun_s = time.monotonic()
        assert serving.stop() == 0
        assert time.monotonic() - begun_s < 8
        serving.start()
        assert serving.wait_until(serving.is_serving, 15) < 10
        serving.wait_until(lambda: can_exchange(serving), 10)

    def test_after_a_kill_of_everything_another_container_takes_over(
        self, serving: RestSite
    ) -> None:
        serving.kill_all()
        serving.start()
        serving.wait_until(serving.is_serving, 15)
        serving.wait_until(lambda: can_exchange(serving), 10)

    def test_it_waits_for_vault_and_says_so(self, serving: RestSite) -> None:
        assert serving.stop() == 0
        serving.vault.seal()
        serving.start()
        serving.wait_until(lambda: serving.ready()[0] == 503, 10)
        with serving.service_client("hop") as client:
            answer = client.get(f"https://{HOST}:{serving.port}/api/v1/keys/bob/status")
            assert answer.status_code == 503
        serving.vault.unseal()
        serving.wait_until(serving.is_serving, 15)
        serving.wait_until(lambda: can_exchange(serving), 10)


def client_of(site: RestSite, own: CredentialFiles) -> httpx.Client:
    context = client_context(own, site.folder / "tls/services-ca.pem")
    return httpx.Client(verify=context, trust_env=False)
