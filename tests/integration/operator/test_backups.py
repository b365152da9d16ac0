"""All that a real Vault holds goes into a file, and Vault back to it; nobody else's file does."""

import asyncio
import concurrent.futures
import contextlib
import gzip
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fresh_vault import FreshVault, fresh_vault
from kme.appliance.operator import backups
from kme.appliance.operator.backups import IN_NAME, OUT_NAME
from kme.appliance.operator.cli import UNCHANGED
from kme.appliance.operator.settings import OperatorSettings
from kme.appliance.start import load
from kme.bootstrap.access import open_client, wait_until_active
from kme.bootstrap.shares import read_shares
from kme.ids import KmeId
from kme.secret import Secret
from kme.store.vault import VaultStore
from kme.vault.documents import Document, Documents
from kme.vault.snapshot_file import check_snapshot
from operator_site import PEER, OperatorSite
from snapshot_archives import members, write_archive

CANARY = "CANARY-7f3e9a"
PLACE = "blocks/kme-2/1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorSite]:
    """Return a site of this module's own: its Vault goes back in time."""
    with set_up_site(tmp_path_factory.mktemp("backups")) as found:
        yield found


@contextlib.contextmanager
def set_up_site(folder: Path) -> Iterator[OperatorSite]:
    """Give a KME's Vault and its operator."""
    with fresh_vault(folder / "site") as vault:
        vault.set_up()
        site = OperatorSite(vault, folder)
        site.issued.mkdir()
        yield site


def write(site: OperatorSite, path: str, text: str) -> None:
    async def work(documents: Documents) -> None:
        held = await documents.read(path)
        await documents.write(path, {"text": text}, 0 if held is None else held.version)

    site.as_service("rest", work)


def read(site: OperatorSite, path: str) -> str | None:
    async def work(documents: Documents) -> Document | None:
        return await documents.read(path)

    held = site.as_service("rest", work)
    return None if held is None else str(held.data["text"])


def mark(site: OperatorSite) -> str | None:
    """Return what the rest service finds."""

    async def work(documents: Documents) -> str | None:
        store = await VaultStore.open(KmeId("kme-1"), documents, Secret(bytes(32)))
        found = await store.restoring(PEER)
        await store.close()
        return found

    return site.as_service("rest", work)


def backup(site: OperatorSite, name: str) -> Path:
    """Do what `make backup` does."""
    site.do("snapshot", "take")
    return (site.issued / OUT_NAME).rename(site.issued.parent / name)


def restore(site: OperatorSite, file: Path) -> tuple[int, str, str]:
    """Do what `make restore` does."""
    site.do("snapshot", "receive", str(file))
    return site.run("snapshot", "restore")


def asked(vault: FreshVault, path: str) -> list[str]:
    """Return who asked for a path, by role, as the audit log says."""
    whole = vault.audit.read_text().rpartition("\n")[0]  # it may be writing
    lines = [json.loads(line) for line in whole.splitlines()]
    return [
        f"{line['request']['operation']} as {line['auth']['policies'][0]}"
        for line in lines
        if line["type"] == "request" and line["request"]["path"] == path
    ]


def seal(vault: FreshVault) -> None:
    """Seal it as a restart does."""
    vault.stop()
    vault.start()


def unseal(vault: FreshVault) -> None:
    client = open_client(vault.address)
    shares = read_shares(vault.places.unsealer_shares)
    client.sys.submit_unseal_keys([share.to_base64() for share in shares])
    wait_until_active(client, 30.0)


class TestABackup:
    def test_is_whole_and_can_be_read_by_its_owner_only(self, site: OperatorSite) -> None:
        site.do("snapshot", "take")
        path = site.issued / OUT_NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert check_snapshot(path).n_bytes > 10_000
        path.unlink()

    def test_holds_nothing_in_plain(self, site: OperatorSite) -> None:
        write(site, PLACE, CANARY)
        unpacked = gzip.decompress(backup(site, "plain").read_bytes())
        assert len(unpacked) > 10_000
        assert CANARY.encode() not in unpacked

    def test_stands_in_the_audit_log_under_its_own_role(self, site: OperatorSite) -> None:
        backup(site, "audited")
        assert asked(site.vault, "sys/storage/raft/snapshot")[-1] == "read as backup"

    def test_of_a_sealed_vault_is_refused_and_nothing_is_left(self, site: OperatorSite) -> None:
        seal(site.vault)
        assert "Vault is sealed" in site.refuses("snapshot", "take")
        assert not (site.issued / OUT_NAME).exists()
        unseal(site.vault)


class TestARestore:
    def test_brings_the_older_state_back_and_marks_it(self, site: OperatorSite) -> None:
        write(site, PLACE, "before")
        before = mark(site)
        file = backup(site, "before")
        write(site, PLACE, "after")
        write(site, "blocks/kme-2/2", "new")
        code, out, err = restore(site, file)
        assert code == 0, err
        assert "marked as an older copy" in out
        assert read(site, PLACE) == "before"
        assert read(site, "blocks/kme-2/2") is None
        assert mark(site) not in {None, before}
        assert asked(site.vault, "sys/storage/raft/snapshot")[-1] == "update as restore"
        assert not (site.issued / IN_NAME).exists()

    def test_may_be_undone_by_the_backup_that_was_taken_before_it(self, site: OperatorSite) -> None:
        write(site, PLACE, "old")
        old = backup(site, "old")
        write(site, PLACE, "present")
        present = backup(site, "present")
        assert restore(site, old)[0] == 0
        first = mark(site)
        assert restore(site, present)[0] == 0
        assert read(site, PLACE) == "present"
        assert mark(site) not in {None, first}

    def test_of_more_than_vault_takes_in_any_other_request_works(self, site: OperatorSite) -> None:
        for number in range(16):
            write(site, f"blocks/kme-2/{number}", os.urandom(300_000).hex())
        file = backup(site, "large")
        assert file.stat().st_size > 2 * (2 << 20)
        write(site, "blocks/kme-2/0", "after")
        assert restore(site, file)[0] == 0
        assert len(read(site, "blocks/kme-2/0") or "") == 600_000

    def test_says_whom_this_kme_believes_again(self, site: OperatorSite) -> None:
        site.do("sae", "add", "carol")
        file = backup(site, "carol-was-there")
        site.do("sae", "revoke", "carol")
        site.do("sae", "add", "dora")
        code, out, err = restore(site, file)
        assert code == 0, err
        assert "make revoke-sae NAME=carol" in out
        assert "make sae NAME=dora" in out
        site.do("sae", "revoke", "carol")

    def test_of_another_vaults_backup_is_refused_and_changes_nothing(
        self, site: OperatorSite, tmp_path: Path
    ) -> None:
        write(site, PLACE, "ours")
        before = mark(site)
        with set_up_site(tmp_path) as other:
            theirs = backup(other, "theirs")
        code, _, err = restore(site, theirs)
        assert code == UNCHANGED
        assert "another Vault made it" in err
        assert "Nothing was changed" in err
        assert read(site, PLACE) == "ours"
        assert mark(site) == before

    def test_of_a_forged_backup_is_refused_and_changes_nothing(
        self, site: OperatorSite, tmp_path: Path
    ) -> None:
        write(site, PLACE, "ours")
        with tarfile.open(fileobj=io.BytesIO(backup(site, "real").read_bytes())) as archive:
            found = archive.extractfile("SHA256SUMS.sealed")
            assert found is not None
            sealed = found.read()
        forged = write_archive(tmp_path / "forged", members() | {"SHA256SUMS.sealed": sealed})
        code, _, err = restore(site, forged)
        assert code == UNCHANGED
        assert "Vault refuses this backup" in err
        assert read(site, PLACE) == "ours"

    def test_while_vault_is_sealed_is_refused_and_changes_nothing(self, site: OperatorSite) -> None:
        file = backup(site, "sealed")
        seal(site.vault)
        code, _, err = restore(site, file)
        unseal(site.vault)
        assert code == UNCHANGED
        assert "Vault is sealed" in err

    def test_of_nothing_is_refused(self, site: OperatorSite) -> None:
        code, _, err = site.run("snapshot", "restore")
        assert code == UNCHANGED
        assert "No such file" in err


def test_a_restore_in_which_vault_dies_says_that_what_it_holds_is_not_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_REPLACED_TIMEOUT_S", 3.0)
    with set_up_site(tmp_path) as site:
        file = backup(site, "before")
        site.do("snapshot", "receive", str(file))
        for name, value in site.environment().items():
            monkeypatch.setenv(name, value)

        def kill_when_asked() -> None:
            while "update as restore" not in asked(site.vault, "sys/storage/raft/snapshot"):
                time.sleep(0.01)
            site.vault.stop()

        with concurrent.futures.ThreadPoolExecutor() as threads:
            killer = threads.submit(kill_when_asked)
            with pytest.raises(backups.UnmarkedError, match="may hold the older state"):
                asyncio.run(backups.put_back(load(OperatorSettings)))
            killer.result()
        # Whichever state it holds: the whole of one, and it serves.
        site.vault.start()
        unseal(site.vault)
        assert mark(site) is None
