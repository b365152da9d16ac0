import io
import stat
from pathlib import Path

import pytest

from kme.appliance.operator import backups
from kme.appliance.operator.backups import Changes, Trust
from kme.appliance.operator.settings import OperatorSettings
from kme.errors import InputError
from snapshot_archives import INDEX, members, write_archive


@pytest.fixture
def settings(tmp_path: Path) -> OperatorSettings:
    (tmp_path / "issued").mkdir()
    return OperatorSettings(
        id="kme-1",
        site="Site one",
        host="kme-1.example.org",
        links="kme-2/qkd-1",  # type: ignore[arg-type]
        issued=tmp_path / "issued",
    )


class TestReceiving:
    def test_a_backup_is_checked_and_kept_for_the_operator_alone(
        self, settings: OperatorSettings, tmp_path: Path
    ) -> None:
        given = write_archive(tmp_path / "given", members())
        assert backups.receive(settings, given).index == INDEX
        kept = settings.issued / backups.IN_NAME
        assert kept.read_bytes() == given.read_bytes()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    def test_it_comes_through_standard_input_too(
        self, settings: OperatorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = write_archive(tmp_path / "given", members()).read_bytes()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert backups.receive(settings, Path("-")).index == INDEX

    def test_one_that_waits_from_before_is_replaced(
        self, settings: OperatorSettings, tmp_path: Path
    ) -> None:
        kept = settings.issued / backups.IN_NAME
        kept.write_bytes(b"x" * 10_000_000)
        kept.chmod(0o644)
        backups.receive(settings, write_archive(tmp_path / "given", members()))
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    @pytest.mark.parametrize("content", [b"", b"KME_ID=kme-1\n"])
    def test_what_is_no_backup_is_refused_and_not_kept(
        self, settings: OperatorSettings, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "given").write_bytes(content)
        with pytest.raises(InputError, match="no backup of Vault"):
            backups.receive(settings, tmp_path / "given")
        assert not list(settings.issued.iterdir())

    def test_a_file_that_is_not_there_is_named(
        self, settings: OperatorSettings, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="absent: No such file"):
            backups.receive(settings, tmp_path / "absent")


class TestWhatARestoreUndid:
    def test_nothing_is_said_when_all_is_as_it_was(self) -> None:
        trust = Trust({"alice": frozenset({"01"})}, frozenset({"kme-2"}))
        assert backups.changes(trust, trust) == Changes([], [], [], [])

    def test_who_is_believed_again_and_who_no_more_is_named(self) -> None:
        before = Trust(
            {"alice": frozenset({"03"}), "bob": frozenset({"02"}), "dora": frozenset({"05"})},
            frozenset({"kme-2"}),
        )
        after = Trust(
            {
                "alice": frozenset({"01"}),  # removed and registered again since
                "bob": frozenset(),  # one more certificate since
                "carol": frozenset({"04"}),  # removed since
            },
            frozenset({"kme-3"}),
        )
        assert backups.changes(before, after) == Changes(
            saes_again=["alice", "carol"],
            saes_gone=["dora"],
            peers_again=["kme-3"],
            peers_gone=["kme-2"],
        )
