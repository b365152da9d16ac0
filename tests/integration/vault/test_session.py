"""Sessions with a real Vault: logins, outages, refusals, and what nobody may read of them."""

import asyncio
import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest

from kme.errors import ConflictError, CredentialError, KmeError, StoreUnavailableError
from kme.pki.authority import Authority, TlsRole
from kme.pki.bundle import CredentialFiles, write_certificates
from kme.vault.client import VaultAccess
from kme.vault.documents import Documents
from kme.vault.session import VaultSession
from pointing_server import PointingServer
from real_vault import EVERYTHING, RealVault, open_session


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def look(client: hvac.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.auth.token.lookup_self()["data"]
    return found


def n_logins(vault: RealVault) -> int:
    return sum(
        entry["type"] == "response" and entry["request"]["path"] == "auth/cert/login"
        for entry in map(json.loads, vault.audit.read_text().splitlines())
    )


def revoke(vault: RealVault, token: dict[str, Any]) -> None:
    with vault.root_client() as client:
        client.auth.token.revoke_accessor(token["accessor"])


class TestLogin:
    def test_gives_the_role_its_policies_and_nothing_more(self, real_vault: RealVault) -> None:
        real_vault.role("narrow", "rest", ["rest"], token_no_default_policy=True)

        async def work() -> None:
            async with open_session(real_vault.access(EVERYTHING)) as session:
                assert EVERYTHING in (await session.call(look))["policies"]
            async with open_session(real_vault.access("narrow")) as session:
                with pytest.raises(StoreUnavailableError, match="role narrow does not allow"):
                    await session.call(look)

        run(work())

    def test_ends_with_the_session(self, real_vault: RealVault) -> None:
        async def work() -> None:
            async with open_session(real_vault.access()) as session:
                token = await session.call(look)
            with real_vault.root_client() as client, pytest.raises(hvac.exceptions.VaultError):
                client.auth.token.lookup_accessor(token["accessor"])
            with pytest.raises(StoreUnavailableError, match="not open"):
                await session.call(look)

        run(work())

    def test_is_made_again_once_when_vault_forgot_the_token(self, real_vault: RealVault) -> None:
        async def work() -> None:
            async with open_session(real_vault.access()) as session:
                first = await session.call(look)
                revoke(real_vault, first)
                n_before = n_logins(real_vault)
                found = await asyncio.gather(*(session.call(look) for _ in range(24)))
                assert {token["accessor"] for token in found} != {first["accessor"]}
                assert len({token["accessor"] for token in found}) == 1
                assert n_logins(real_vault) == n_before + 1

        run(work())

    def test_is_not_made_again_for_what_the_policy_forbids(self, real_vault: RealVault) -> None:
        real_vault.role("narrow", "rest", ["rest"])

        async def work() -> None:
            async with open_session(real_vault.access("narrow")) as session:
                n_before = n_logins(real_vault)
                with pytest.raises(StoreUnavailableError, match=r"narrow .* allow kme/data/a/b"):
                    await Documents(session).read("a/b")
                assert n_logins(real_vault) == n_before

        run(work())

    def test_is_made_anew_before_the_token_dies(self, real_vault: RealVault) -> None:
        real_vault.role("brief", "rest", [EVERYTHING], ttl="6s")

        async def work() -> None:
            async with open_session(real_vault.access("brief")) as session:
                first = await session.call(look)
                await asyncio.sleep(5.0)
                n_before = n_logins(real_vault)
                second = await session.call(look)
                assert first["accessor"] != second["accessor"]
                assert n_logins(real_vault) == n_before

        run(work())

    def test_takes_up_renewed_certificates(self, real_vault: RealVault) -> None:
        access = real_vault.access()
        renewed = real_vault.credential(EVERYTHING)

        async def work() -> None:
            async with open_session(access) as session:
                first = await session.call(look)
                replace(access.credential, renewed)
                revoke(real_vault, first)
                second = await session.call(look)
                assert first["meta"]["serial_number"] != second["meta"]["serial_number"]

        run(work())

    def test_survives_certificates_that_are_broken_for_a_while(self, real_vault: RealVault) -> None:
        access = real_vault.access()
        other = real_vault.credential(EVERYTHING)

        async def work() -> None:
            async with open_session(access) as session:
                shutil.copy(other.key, access.credential.key)
                revoke(real_vault, await session.call(look))
                with pytest.raises(StoreUnavailableError, match="not usable with its key"):
                    await session.call(look)
                shutil.copy(other.certificate, access.credential.certificate)
                await session.call(look)

        run(work())

    def test_that_fails_in_the_background_is_tried_again(
        self,
        real_vault: RealVault,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("kme.vault.session._LOGIN_AGAIN_S", 0.1)
        real_vault.role("brief", "rest", [EVERYTHING], ttl="6s")
        access, other = real_vault.access("brief"), real_vault.credential("rest")

        async def work() -> None:
            async with open_session(access) as session:
                first = await session.call(look)
                shutil.copy(other.key, access.credential.key)
                await asyncio.sleep(4.3)
                shutil.copy(other.certificate, access.credential.certificate)
                await asyncio.sleep(0.8)
                n_before = n_logins(real_vault)
                assert (await session.call(look))["accessor"] != first["accessor"]
                assert n_logins(real_vault) == n_before

        run(work())
        assert "cannot log in to Vault again" in caplog.text

    def test_needs_files_that_are_there_and_fit(self, real_vault: RealVault) -> None:
        access = real_vault.access()
        absent = Path("absent.pem")
        broken = [
            VaultAccess(access.url, absent, access.credential, EVERYTHING),
            VaultAccess(access.url, access.ca, CredentialFiles(absent, absent), EVERYTHING),
            VaultAccess("http://127.0.0.1:1", access.ca, access.credential, EVERYTHING),
        ]

        async def work() -> None:
            for wrong in broken:
                with pytest.raises(CredentialError):
                    await VaultSession(wrong).open()

        run(work())

    def test_as_an_unknown_role_or_with_anothers_certificate_is_refused(
        self, real_vault: RealVault
    ) -> None:
        ours = real_vault.access()
        others = VaultAccess(ours.url, ours.ca, real_vault.credential("watcher"), EVERYTHING)
        unknown = VaultAccess(ours.url, ours.ca, ours.credential, "unknown")

        async def work() -> None:
            for wrong in (others, unknown):
                with pytest.raises(StoreUnavailableError, match=f"no login as {wrong.role}"):
                    await VaultSession(wrong).open()

        run(work())

    def test_without_a_role_is_none_and_sees_what_is_public(self, real_vault: RealVault) -> None:
        async def work() -> None:
            async with open_session(real_vault.access(None)) as session:
                status = await session.call(lambda client: client.sys.read_seal_status())
                assert status["sealed"] is False
                with pytest.raises(StoreUnavailableError, match="without a login"):
                    await Documents(session).read("a")

        run(work())

    def test_ignores_the_environment(
        self, real_vault: RealVault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
        monkeypatch.setenv("VAULT_TOKEN", real_vault.root_token.reveal().decode())
        monkeypatch.setenv("VAULT_ADDR", "https://127.0.0.1:1")

        async def work() -> None:
            async with open_session(real_vault.access(None)) as session:
                with pytest.raises(StoreUnavailableError, match="without a login"):
                    await Documents(session).read("a")

        run(work())


class TestCertificatesOfOthers:
    def test_one_from_a_sister_authority_does_not_reach_vault(self, real_vault: RealVault) -> None:
        saes = real_vault.root.issue_authority("saes", TlsRole.CLIENT, real_vault.validity)
        ours = real_vault.access()
        theirs = real_vault.credential(EVERYTHING, saes)

        async def work() -> None:
            session = VaultSession(VaultAccess(ours.url, ours.ca, theirs, EVERYTHING))
            with pytest.raises(StoreUnavailableError, match=str(theirs.certificate)):
                await session.open()

        run(work())

    def test_a_vault_of_another_authority_is_not_believed(
        self, real_vault: RealVault, tmp_path: Path
    ) -> None:
        ours, root = real_vault.access(), Authority.root("other", real_vault.validity)
        write_certificates(root.credential.chain, tmp_path / "other.pem")
        other = VaultAccess(ours.url, tmp_path / "other.pem", ours.credential, EVERYTHING)

        async def work() -> None:
            with pytest.raises(StoreUnavailableError, match=r"Vault's certificate .* is refused"):
                await VaultSession(other).open()

        run(work())


class TestOutage:
    """A Vault of its own for each test: the others' shall not be sealed or killed."""

    @pytest.fixture
    def vault(self, tmp_path: Path) -> Iterator[RealVault]:
        with RealVault(tmp_path / "vault").running() as vault:
            yield vault

    def test_a_session_outlives_a_seal(self, vault: RealVault) -> None:
        async def work() -> None:
            async with open_session(vault.access()) as session:
                documents = Documents(session)
                await documents.write("a", {"n": 1}, 0)
                vault.seal()
                for attempt in (documents.read("a"), documents.write("a", {"n": 2}, 1)):
                    with pytest.raises(StoreUnavailableError, match="Vault is sealed"):
                        await attempt
                late = VaultSession(vault.access())
                with pytest.raises(StoreUnavailableError, match="Vault is sealed"):
                    await late.open()
                vault.unseal()
                assert await documents.write("a", {"n": 2}, 1) == 2
                await late.open()
                assert await Documents(late).read("a") is not None
                await late.close()

        run(work())

    def test_a_session_outlives_a_crash_and_so_does_what_was_written(
        self, vault: RealVault
    ) -> None:
        async def work() -> None:
            async with open_session(vault.access()) as session:
                documents = Documents(session)
                versions = [await documents.write(f"a/{n}", {"n": n}, 0) for n in range(20)]
                vault.kill()
                begin = time.monotonic()
                for attempt in (documents.read("a"), documents.write("a/0", {}, 1)):
                    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                        await attempt
                with pytest.raises(StoreUnavailableError, match="Connection refused"):
                    await VaultSession(vault.access()).open()
                assert time.monotonic() - begin < 2
                vault.start()
                vault.unseal()
                assert versions == [1] * 20
                for n in range(20):
                    found = await documents.read(f"a/{n}")
                    assert found is not None
                    assert found.data == {"n": n}

        run(work())

    def test_a_vault_that_hangs_costs_the_time_out_and_no_call_waits_for_long(
        self, vault: RealVault
    ) -> None:
        async def work() -> None:
            async with open_session(vault.access(timeout_s=0.5), n_threads=2) as session:
                documents = Documents(session)
                vault.pause()
                begin = time.monotonic()
                writes = [documents.write(f"a/{n}", {}, 0) for n in range(20)]
                results = await asyncio.gather(*writes, return_exceptions=True)
                assert time.monotonic() - begin < 2.5
                vault.resume()
                texts = [str(result) for result in results]
                assert all(isinstance(result, StoreUnavailableError) for result in results)
                assert "did not answer within 0.5 s" in texts[0]
                assert "not begun" in texts[-1]
                assert await documents.read("a/19") is None

        run(work())

    def test_closing_while_vault_is_gone_ends_soon(self, vault: RealVault) -> None:
        async def work() -> None:
            session = VaultSession(vault.access(timeout_s=0.5))
            await session.open()
            vault.kill()
            begin = time.monotonic()
            await session.close()
            assert time.monotonic() - begin < 2

        run(work())

    def test_nothing_secret_is_in_any_log_or_exception(
        self, vault: RealVault, caplog: pytest.LogCaptureFixture
    ) -> None:
        canary = "CANARY-0123456789-abcdef"
        caplog.set_level(logging.DEBUG)
        vault.role("narrow", "rest", ["rest"])

        async def work() -> list[str]:
            errors: list[BaseException] = []

            async def fail(documents: Documents, expected: type[KmeError], version: int) -> None:
                with pytest.raises(expected) as caught:
                    await documents.write("a", {"key": canary}, version)
                errors.append(caught.value)

            async with (
                open_session(vault.access(timeout_s=0.5)) as session,
                open_session(vault.access("narrow")) as narrow,
            ):
                documents = Documents(session)
                tokens = [(await held.call(look))["id"] for held in (session, narrow)]
                await documents.write("a", {"key": canary}, 0)
                logging.getLogger().debug("read %r", await documents.read("a"))
                await fail(documents, ConflictError, 0)
                await fail(Documents(narrow), StoreUnavailableError, 0)
                await fail(Documents(session, "absent"), StoreUnavailableError, 0)
                vault.pause()
                await fail(documents, StoreUnavailableError, 1)
                vault.resume()
                vault.seal()
                await fail(documents, StoreUnavailableError, 1)
                vault.kill()
                await fail(documents, StoreUnavailableError, 1)
            return [*tokens, *map(everything_in, errors)]

        token, narrow_token, *texts = asyncio.run(work())
        for text in (caplog.text, *texts, vault.log.read_text(), vault.audit.read_text()):
            assert len(text) > 20
            for secret in (canary, token, narrow_token):
                assert secret not in text


class TestOneRequest:
    def test_a_cancelled_call_may_go_on(self, real_vault: RealVault) -> None:
        mount = real_vault.fresh_mount()

        def slowly(client: hvac.Client) -> None:
            time.sleep(0.2)
            client.secrets.kv.v2.create_or_update_secret("a", {}, cas=0, mount_point=mount)

        async def work() -> None:
            async with open_session(real_vault.access()) as session:
                call = asyncio.create_task(session.call(slowly))
                await asyncio.sleep(0.05)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            # Closing waited for it.
            async with open_session(real_vault.access()) as session:
                assert await Documents(session, mount).read("a") is not None

        run(work())

    def test_is_not_sent_again_when_the_connection_breaks(self, real_vault: RealVault) -> None:
        async def work(server: PointingServer) -> None:
            async with open_session(access_to(server, real_vault)) as session:
                with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                    await Documents(session).write("a", {}, 0)
            assert server.requests == ["POST /v1/kme/data/a"]

        with PointingServer(real_vault, status=None) as server:
            run(work(server))

    def test_is_not_sent_to_where_the_answer_points(self, real_vault: RealVault) -> None:
        async def work(server: PointingServer) -> None:
            async with open_session(access_to(server, real_vault)) as session:
                with pytest.raises(StoreUnavailableError, match="points to another address"):
                    await Documents(session).write("a", {}, 0)
            assert server.requests == ["POST /v1/kme/data/a"]

        with PointingServer(real_vault, status=307) as server:
            run(work(server))

    def test_an_answer_that_is_not_vaults_is_an_error(self, real_vault: RealVault) -> None:
        async def work(server: PointingServer) -> None:
            async with open_session(access_to(server, real_vault)) as session:
                documents = Documents(session)
                for attempt in (documents.write("a", {}, 0), documents.read("a")):
                    with pytest.raises(StoreUnavailableError, match="not understood"):
                        await attempt

        with PointingServer(real_vault, status=200) as server:
            run(work(server))

    def test_a_login_at_a_server_that_is_not_vault_fails(self, real_vault: RealVault) -> None:
        async def work(access: VaultAccess) -> None:
            with pytest.raises(StoreUnavailableError, match="not understood"):
                await VaultSession(access).open()

        with PointingServer(real_vault, status=200) as server:
            run(work(dataclasses.replace(access_to(server, real_vault), role=EVERYTHING)))


def access_to(server: PointingServer, vault: RealVault) -> VaultAccess:
    return VaultAccess(server.url, vault.ca, vault.credential("nobody"))


def replace(old: Any, new: CredentialFiles) -> None:
    shutil.copy(new.certificate, old.certificate)
    shutil.copy(new.key, old.key)


def everything_in(error: BaseException | None) -> str:
    """Return all that an exception and those behind it hold."""
    if error is None:
        return ""
    held = [
        f"{vars(found)} {getattr(found, 'request', None) and vars(found.request)}"
        for found in (error, *error.args)
        if hasattr(found, "__dict__")
    ]
    behind = [everything_in(error.__cause__), everything_in(error.__context__)]
    return " ".join([repr(error), str(error), *held, *behind])
