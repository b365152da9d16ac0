from pathlib import Path

import pytest

from kme.appliance.start import load
from kme.appliance.vault_init import VaultInitSettings, main
from kme.errors import SettingsError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("KME_ID", "kme-1")
    monkeypatch.setenv("KME_HOST", "kme-1.example.org")
    monkeypatch.setenv("KME_STATE_DIR", str(tmp_path))
    # What belongs to the process is left to the test runner.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("kme.appliance.vault_init.set_up_logging", lambda *_: None)
    return monkeypatch


class TestSettings:
    def test_are_those_of_the_containers_by_default(self) -> None:
        settings = load(VaultInitSettings)
        assert (settings.shares, settings.threshold) == (5, 3)
        assert settings.site.first_sae == "sae-kme-1"
        assert settings.site.vault_url == "https://vault:8200"
        assert str(settings.places.unsealer_shares) == "/out/unsealer/shares.json"
        assert str(settings.audit_file) == "/vault/audit/audit.log"

    @pytest.mark.parametrize("host", ["kme-1", "a.b.example", "192.0.2.7", "2001:db8::1"])
    def test_take_a_name_or_an_address(self, environment: pytest.MonkeyPatch, host: str) -> None:
        environment.setenv("KME_HOST", host)
        assert load(VaultInitSettings).site.host == host

    @pytest.mark.parametrize(
        "host", ["", "a b", "*.example", "https://kme-1", "kme-1:8443", "-a", "a" * 64, "a,b", "é"]
    )
    def test_refuse_what_is_no_host(self, environment: pytest.MonkeyPatch, host: str) -> None:
        environment.setenv("KME_HOST", host)
        with pytest.raises(SettingsError, match=r"KME_HOST: .*one DNS name"):
            load(VaultInitSettings)

    @pytest.mark.parametrize(
        ("shares", "threshold"), [("2", "3"), ("3", "1"), ("0", "0"), ("17", "3"), ("five", "3")]
    )
    def test_refuse_shares_that_vault_would(
        self, environment: pytest.MonkeyPatch, shares: str, threshold: str
    ) -> None:
        environment.setenv("KME_SHARES", shares)
        environment.setenv("KME_THRESHOLD", threshold)
        with pytest.raises(SettingsError, match="KME_"):
            load(VaultInitSettings)

    @pytest.mark.parametrize("name", ["../x", "a/b", ".", "a b", "x" * 101])
    def test_refuse_an_sae_that_is_no_folder_name(
        self, environment: pytest.MonkeyPatch, name: str
    ) -> None:
        environment.setenv("KME_FIRST_SAE", name)
        with pytest.raises(SettingsError, match="KME_FIRST_SAE"):
            load(VaultInitSettings)


class TestTheProgram:
    @pytest.mark.parametrize("arguments", [[], ["--first", "--second"]])
    def test_wants_to_know_which_run(
        self,
        environment: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
    ) -> None:
        environment.setattr("sys.argv", ["vault_init", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
        assert "say either --first or --second" in capsys.readouterr().err

    def test_says_what_is_wrong_in_one_line(
        self, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        environment.setenv("KME_VAULT__CERTIFICATE", str(tmp_path / "absent.pem"))
        environment.setattr("sys.argv", ["vault_init", "--first"])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
        said = capsys.readouterr().err
        assert "absent.pem: cannot be read" in said
        assert "Traceback" not in said

    def test_needs_its_own_folder(
        self, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        environment.setenv("KME_STATE_DIR", str(tmp_path / "absent"))
        environment.setattr("sys.argv", ["vault_init", "--first"])
        with pytest.raises(SystemExit):
            main()
        assert "absent: cannot be written" in capsys.readouterr().err

    def test_does_not_run_twice_at_once(
        self, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        import fcntl

        environment.setattr("sys.argv", ["vault_init", "--first"])
        with (tmp_path / ".lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(SystemExit):
                main()
        assert "another vault_init runs" in capsys.readouterr().err
