import pytest

from kme.appliance.start import load
from kme.appliance.unsealer import UnsealerSettings, main
from kme.errors import SettingsError


def test_settings_are_those_of_the_container_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KME_ID", "kme-1")
    monkeypatch.setenv("KME_SHARES", "5")  # vault_init's, and the same in every container
    settings = load(UnsealerSettings)
    assert str(settings.shares_file) == "/tls/shares.json"
    assert str(settings.alive) == "/run/kme/alive"
    assert settings.look_interval_s == 1.0


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KME_ID", "kme-1")
    monkeypatch.setenv("KME_LOOK_INTERVAL_S", "0")
    with pytest.raises(SettingsError, match="KME_LOOK_INTERVAL_S"):
        load(UnsealerSettings)


def test_the_program_ends_with_one_line_if_it_does_not_know_who_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KME_ID", raising=False)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "unsealer: KME_ID" in capsys.readouterr().err
