"""A KME is put back to a backup with `make`, and no key is given out again because of it."""

import stat
from pathlib import Path

import pytest

from two_kmes import TwoKmes, wait_for


@pytest.fixture
def file(kmes: TwoKmes, tmp_path: Path) -> Path:
    """Return a backup of the second KME, just taken."""
    path = tmp_path / "kme-2.backup"
    done = kmes.second.make("backup", OUT=str(path))
    assert done.returncode == 0, done.stderr
    return path


def test_a_backup_is_made_while_keys_flow_and_only_its_owner_reads_it(
    kmes: TwoKmes, file: Path
) -> None:
    assert kmes.deliver(*kmes.sites)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_restored_kme_gives_no_key_again_and_goes_on(kmes: TwoKmes, file: Path) -> None:
    first, second = kmes.sites
    (drawn,) = first.enc_keys(second).keys
    assert second.dec_keys(first, drawn).status == 200
    given = second.enc_keys(first).keys
    done = second.make("restore", FROM=str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "marked as an older copy" in done.stdout
    (before,) = file.parent.glob("*.before-restore-*")
    assert stat.S_IMODE(before.stat().st_mode) == 0o600
    assert second.make("up").returncode == 0
    # What masters here gave before is drawn there as ever: the peer's SAEs lose nothing.
    wait_for(lambda: first.dec_keys(second, *given).status == 200, 60.0)
    assert second.dec_keys(first, drawn).status in {400, 503}
    kmes.refill()
    kmes.wait_until_served()
    assert second.dec_keys(first, drawn).status == 400
    assert not set(second.enc_keys(first).keys) & set(given)
    assert second.make("compare").returncode == 0


def test_a_restore_that_was_cut_off_keeps_the_kme_from_starting(kmes: TwoKmes) -> None:
    marker = kmes.second.folder / ".restoring"
    marker.touch()
    try:
        done = kmes.second.make("up")
    finally:
        marker.unlink()
    assert done.returncode != 0
    assert "make restored" in done.stderr


class TestWrongFiles:
    def test_none_that_cannot_be_one_stops_anything(self, kmes: TwoKmes, tmp_path: Path) -> None:
        (tmp_path / "letter").write_text("dear operator\n")
        for name, reason in {
            "": "FROM=FILE is needed",
            "absent": "no such file",
            "letter": "no backup of Vault",
        }.items():
            done = kmes.second.make("restore", FROM=str(tmp_path / name) if name else "")
            assert done.returncode != 0
            assert reason in done.stderr
        assert kmes.deliver(*kmes.sites)

    def test_the_other_kmes_backup_is_refused_and_nothing_is_lost(
        self, kmes: TwoKmes, file: Path
    ) -> None:
        (key_id,) = kmes.second.enc_keys(kmes.first).keys
        done = kmes.first.make("restore", FROM=str(file))
        assert done.returncode != 0
        assert "another Vault made it" in done.stderr
        assert kmes.first.make("up").returncode == 0
        wait_for(lambda: kmes.first.dec_keys(kmes.second, key_id).status == 200, 60.0)

    def test_a_backup_goes_to_no_folder_that_is_not_there(
        self, kmes: TwoKmes, tmp_path: Path
    ) -> None:
        for out, reason in {
            "": "OUT=FILE is needed",
            str(tmp_path): "name a file in it",
            str(tmp_path / "absent" / "file"): "no such folder",
        }.items():
            done = kmes.second.make("backup", OUT=out)
            assert done.returncode != 0
            assert reason in done.stderr
