"""kme.appliance.start: wrong settings are named, errors are one line, the alive file is touched."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kme.appliance.settings import SiteSettings
from kme.appliance.start import load, one_line_errors, serve, stay_alive
from kme.errors import SettingsError, StageError


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in list(os.environ):
        if name.startswith("KME_"):
            monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, KME_ID="kme-1", KME_LINKS="kme-2/qkd-1, kme-3/qkd-2")
    settings = load(SiteSettings)
    assert settings.id == "kme-1"
    assert [(link.peer, link.source) for link in settings.links] == [
        ("kme-2", "qkd-1"), ("kme-3", "qkd-2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"KME_LINKS": "kme-2/qkd-1"}, "KME_ID: Field required"),
        ({"KME_ID": "kme-1", "KME_LINKS": "kme-2"}, "KME_LINKS: .*must be PEER/SOURCE"),
        ({"KME_ID": "../x", "KME_LINKS": "kme-2/qkd-1"}, "KME_ID: .*is not a KME id"),
        ({"KME_ID": "kme-1", "KME_LINKS": "kme-2/../x"}, "KME_LINKS: .*is not a source id"),
        ({"KME_ID": "kme-1", "KME_LINKS": "k/q", "KME_LOG__LEVEL": "LOUD"}, "KME_LOG__LEVEL: "),
    ],
)
def test_wrong_settings_are_named_as_the_environment_names_them(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str
) -> None:
    environment(monkeypatch, **values)
    with pytest.raises(SettingsError, match=said):
        load(SiteSettings)


def test_an_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors("watcher"):
        raise StageError("link", "too little light")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "watcher: link: too little light\n"


def test_a_service_works_until_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, KME_ID="kme-1", KME_LINKS="kme-2/qkd-1")
    seen: list[str] = []

    async def work(settings: SiteSettings, stop: asyncio.Event) -> None:
        seen.append(settings.id)
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        seen.append("stopped")

    serve("test", SiteSettings, work)
    assert seen == ["kme-1", "stopped"]


def test_the_file_is_touched_only_while_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kme.appliance.start.ALIVE_INTERVAL_S", 0.01)
    alive = tmp_path / "alive"

    async def story() -> None:
        is_well, stop = False, asyncio.Event()
        running = asyncio.create_task(stay_alive(alive, lambda: is_well, stop))
        await asyncio.sleep(0.05)
        assert not os.path.exists(alive)  # noqa: ASYNC240, PTH110 - a file in memory, at once
        is_well = True
        await asyncio.sleep(0.05)
        stop.set()
        await running

    asyncio.run(story())
    assert alive.exists()


def test_a_file_that_cannot_be_touched_ends_the_service(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="alive: cannot be written: No such file"):
        asyncio.run(stay_alive(tmp_path / "missing" / "alive", lambda: True, asyncio.Event()))
