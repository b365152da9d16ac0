"""What the environment says is what the service does."""

import pytest

from kme.appliance.rest.settings import RestSettings
from kme.appliance.start import load
from kme.errors import SettingsError


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KME_ID", "kme-1")
    monkeypatch.setenv("KME_LINKS", "kme-2/qkd-1,kme-2/qkd-2")


def test_two_names_are_enough() -> None:
    settings = load(RestSettings)
    assert settings.rest.workers == 1
    assert settings.rest.port == 8443
    assert settings.pairing.heartbeat_interval_s == 4.0


def test_one_setting_of_a_section_leaves_the_others_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KME_PAIRING__LEASE_S", "12")
    pairing = load(RestSettings).pairing
    assert (pairing.lease_s, pairing.heartbeat_interval_s) == (12.0, 4.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KME_REST__WORKERS", "0"),
        ("KME_REST__PORT", "99999"),
        ("KME_LINKS", "kme-2"),
        ("KME_PAIRING__LEASE_S", "0"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load(RestSettings)
