"""Documents in a real Vault: check-and-set decides, absence is told from failure."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hvac
import pytest

from kme.errors import ConflictError, InputError, StoreUnavailableError
from kme.vault.client import VaultAccess
from kme.vault.documents import Documents
from real_vault import RealVault, open_session

Work = Callable[[Documents], Coroutine[Any, Any, None]]


def with_documents(access: VaultAccess, work: Work, mount: str = "kme") -> None:
    async def main() -> None:
        async with open_session(access) as session:
            await work(Documents(session, mount))

    asyncio.run(main())


@pytest.fixture
def mount(real_vault: RealVault) -> str:
    return real_vault.fresh_mount()


class TestOneDocument:
    def test_what_was_written_is_read_with_its_version(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def work(documents: Documents) -> None:
            assert await documents.write("pairs/kme-b", {"highest": 7}, 0) == 1
            assert await documents.write("pairs/kme-b", {"list": [1, None, "é"]}, 1) == 2
            found = await documents.read("pairs/kme-b")
            assert found is not None
            assert found.data == {"list": [1, None, "é"]}
            assert found.version == 2

        with_documents(real_vault.access(), work, mount)

    def test_its_content_does_not_print(self, real_vault: RealVault, mount: str) -> None:
        async def work(documents: Documents) -> None:
            await documents.write("a", {"key": "secret-bytes"}, 0)
            assert "secret-bytes" not in repr(await documents.read("a"))

        with_documents(real_vault.access(), work, mount)

    def test_what_was_never_written_is_none(self, real_vault: RealVault, mount: str) -> None:
        async def work(documents: Documents) -> None:
            assert await documents.read("nothing/here") is None

        with_documents(real_vault.access(), work, mount)

    @pytest.mark.parametrize("how", ["delete_secret_versions", "destroy_secret_versions"])
    def test_what_was_deleted_or_destroyed_is_none_and_not_created_again(
        self, real_vault: RealVault, mount: str, how: str
    ) -> None:
        def remove(client: hvac.Client) -> object:
            return getattr(client.secrets.kv.v2, how)("a", [1], mount_point=mount)

        async def work(documents: Documents) -> None:
            await documents.write("a", {"b": 1}, 0)
            await documents._session.call(remove)
            assert await documents.read("a") is None
            with pytest.raises(ConflictError):
                await documents.write("a", {"b": 2}, 0)

        with_documents(real_vault.access(), work, mount)

    def test_what_was_forgotten_leaves_no_name_and_can_be_created_again(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def work(documents: Documents) -> None:
            await documents.write("blocks/kme-b/1", {"b": 1}, 0)
            await documents.forget("blocks/kme-b/1")
            await documents.forget("blocks/kme-b/1")
            assert await documents.read("blocks/kme-b/1") is None
            assert await documents.names("blocks/kme-b") == []
            assert await documents.write("blocks/kme-b/1", {"b": 1}, 0) == 1

        with_documents(real_vault.access(), work, mount)

    def test_a_block_of_64_kib_fits(self, real_vault: RealVault, mount: str) -> None:
        block = {"key": "A" * (4 * 65_536 // 3)}

        async def work(documents: Documents) -> None:
            await documents.write("a", block, 0)
            found = await documents.read("a")
            assert found is not None
            assert found.data == block

        with_documents(real_vault.access(), work, mount)

    def test_what_is_too_large_is_refused(self, real_vault: RealVault, mount: str) -> None:
        async def work(documents: Documents) -> None:
            with pytest.raises(StoreUnavailableError, match="exceeds allowed length") as caught:
                await documents.write("a", {"key": "A" * 3_000_000}, 0)
            assert "AAAA" not in str(caught.value)
            assert await documents.read("a") is None

        with_documents(real_vault.access(), work, mount)

    def test_what_is_not_json_is_refused(self, real_vault: RealVault, mount: str) -> None:
        async def work(documents: Documents) -> None:
            with pytest.raises(InputError, match="not JSON"):
                await documents.write("a", {"b": float("nan")}, 0)

        with_documents(real_vault.access(), work, mount)


class TestNames:
    def test_folders_end_in_a_slash_and_all_is_in_order(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def work(documents: Documents) -> None:
            for path in ("in/b", "in/a/1", "in/a/2", "in/c"):
                await documents.write(path, {}, 0)
            assert await documents.names("in") == ["a/", "b", "c"]
            assert await documents.names("in/a") == ["1", "2"]
            assert await documents.names("out") == []

        with_documents(real_vault.access(), work, mount)


class TestCheckAndSet:
    def test_only_the_version_that_is_there_is_replaced(
        self, real_vault: RealVault, mount: str
    ) -> None:
        async def work(documents: Documents) -> None:
            await documents.write("a", {"n": 1}, 0)
            for wrong in (0, 2, 3):
                with pytest.raises(ConflictError, match="somebody else wrote"):
                    await documents.write("a", {"n": 2}, wrong)
            found = await documents.read("a")
            assert found is not None
            assert found.data == {"n": 1}

        with_documents(real_vault.access(), work, mount)

    def test_of_many_creators_one_wins(self, real_vault: RealVault, mount: str) -> None:
        async def work(documents: Documents) -> None:
            writes = [documents.write("a", {"by": n}, 0) for n in range(32)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            assert results.count(1) == 1
            assert sum(isinstance(result, ConflictError) for result in results) == 31
            found = await documents.read("a")
            assert found is not None
            assert results[found.data["by"]] == 1

        with_documents(real_vault.access(), work, mount)

    def test_no_step_of_many_counters_is_lost(self, real_vault: RealVault, mount: str) -> None:
        n_steps = 0

        async def count(documents: Documents) -> None:
            nonlocal n_steps
            for _ in range(12):
                found = await documents.read("n")
                assert found is not None
                try:
                    await documents.write("n", {"n": found.data["n"] + 1}, found.version)
                except ConflictError:
                    continue
                n_steps += 1

        async def work(documents: Documents) -> None:
            await documents.write("n", {"n": 0}, 0)
            await asyncio.gather(*(count(documents) for _ in range(8)))
            found = await documents.read("n")
            assert found is not None
            assert found.data["n"] == n_steps >= 12

        with_documents(real_vault.access(), work, mount)


class TestWhoMayOnlyCreate:
    @pytest.fixture
    def watcher(self, real_vault: RealVault, mount: str) -> VaultAccess:
        real_vault.policy(
            f"watcher-{mount}",
            f"""
            path "{mount}/data/inbox/*" {{ capabilities = ["create"] }}
            path "{mount}/metadata/inbox/*" {{ capabilities = ["read"] }}
            path "{mount}/data/blind/*" {{ capabilities = ["create"] }}
            """,
        )
        real_vault.role(f"watcher-{mount}", "watcher", [f"watcher-{mount}"])
        return real_vault.access(f"watcher-{mount}")

    def test_is_told_of_a_conflict_if_it_sees_the_metadata(
        self, watcher: VaultAccess, mount: str
    ) -> None:
        async def work(documents: Documents) -> None:
            assert await documents.write("inbox/1", {"a": 1}, 0) == 1
            with pytest.raises(ConflictError):
                await documents.write("inbox/1", {"a": 2}, 0)

        with_documents(watcher, work, mount)

    def test_is_refused_all_else(self, watcher: VaultAccess, mount: str) -> None:
        async def work(documents: Documents) -> None:
            await documents.write("inbox/1", {"a": 1}, 0)
            await documents.write("blind/1", {"a": 1}, 0)
            expected = f"role watcher-{mount} does not allow {mount}/data/"
            with pytest.raises(StoreUnavailableError, match=expected):
                await documents.read("inbox/1")
            with pytest.raises(StoreUnavailableError, match=expected):
                await documents.write("inbox/1", {"a": 2}, 1)
            with pytest.raises(StoreUnavailableError, match=expected):
                await documents.write("elsewhere/1", {"a": 2}, 0)
            with pytest.raises(StoreUnavailableError, match=expected):
                await documents.write("blind/1", {"a": 2}, 0)

        with_documents(watcher, work, mount)

    def test_is_what_the_watcher_is(self, real_vault: RealVault) -> None:
        policy = Path(__file__).parents[3] / "services/watcher/policy.hcl"
        real_vault.policy("the-watcher", policy.read_text())
        real_vault.role("the-watcher", "watcher", ["the-watcher"], token_no_default_policy=True)

        async def work(documents: Documents) -> None:
            path = "inbox/kme-policy/qkd-1/0-0"
            assert await documents.write(path, {"a": 1}, 0) == 1
            with pytest.raises(ConflictError):
                await documents.write(path, {"a": 2}, 0)
            with pytest.raises(StoreUnavailableError, match="does not allow"):
                await documents.write(path, {"a": 2}, 1)
            with pytest.raises(StoreUnavailableError, match="does not allow"):
                await documents.read(path)

        with_documents(real_vault.access("the-watcher"), work)


class TestAMountThatIsNotThere:
    def test_is_not_taken_for_an_empty_one(self, real_vault: RealVault) -> None:
        async def work(documents: Documents) -> None:
            for attempt in (
                documents.read("a"),
                documents.names("a"),
                documents.write("a", {}, 0),
                documents.forget("a"),
            ):
                with pytest.raises(StoreUnavailableError, match="Run vault_init"):
                    await attempt

        with_documents(real_vault.access(), work, "kme-absent")

    def test_is_waited_for_while_vault_prepares_it(self, real_vault: RealVault) -> None:
        with real_vault.root_client() as client:
            client.sys.enable_secrets_engine("kv", path="kme-new", options={"version": "2"})

        async def work(documents: Documents) -> None:
            assert await documents.write("a", {}, 0) == 1

        with_documents(real_vault.access(), work, "kme-new")
