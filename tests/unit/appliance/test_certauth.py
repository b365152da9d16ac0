"""The service as it is run: settings from the environment, commands, one line of error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from certauth_site import PROFILES, REQUESTS, ROOT, CertauthSite
from kme.appliance import certauth

ENTRY = ROOT / "services" / "certauth" / "certauth.py"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CertauthSite:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return CertauthSite(tmp_path)


def environment(directory: Path) -> dict[str, str]:
    return {
        "KME_ID": "kme-1",
        "KME_SITE": "Lab",
        "KME_CA_DIR": str(directory / "ca"),
        "KME_EXCHANGE_DIR": str(directory / "exchange"),
        "KME_OUT_DIR": str(directory / "out"),
        "KME_PROFILES": str(PROFILES),
    }


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["certauth", *arguments])
    with pytest.raises(SystemExit) as caught:
        certauth.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_certificates_are_made_once(
    site: CertauthSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "certs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("; ")[0] for line in lines] == [
        f"{name}: made" for name in (*site.profiles.authorities, *site.profiles.leaves)
    ]
    before = site.contents()
    assert run(monkeypatch, "certs") == 0
    assert all(": kept; valid until 20" in line for line in capsys.readouterr().out.splitlines())
    assert site.contents() == before


def test_requests_are_signed_and_shown(
    site: CertauthSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "certs")
    assert run(monkeypatch, "csr") == 1
    assert "certauth: " in (shown := capsys.readouterr().err)
    assert "no signing request of 'services'" in shown
    site.ask()
    assert run(monkeypatch, "csr") == 0
    assert capsys.readouterr().out.count(": signed; valid until ") == len(REQUESTS)
    assert run(monkeypatch, "csr", "--replace", "kme", "--replace", "sae") == 0
    assert run(monkeypatch, "csr", "--replace", "else") == 1
    assert run(monkeypatch, "show") == 0
    shown = capsys.readouterr().out
    assert shown.count("CN=") == len(site.profiles.tables)
    assert max(len(word) for word in shown.split()) >= 64


def test_what_is_shown_is_no_secret(
    site: CertauthSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "certs")
    run(monkeypatch, "show")
    shown = "".join(capsys.readouterr())
    assert site.path("ca/p12-password").read_text().strip() not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KME_ID", "", "KME_ID"),
        ("KME_SITE", "", "KME_SITE"),
        ("KME_SITE", " Lab", "KME_SITE"),
        ("KME_SITE", "a\nb", "KME_SITE"),
        ("KME_SITE", "x" * 33, "KME_SITE"),
        ("KME_ID", "k" * 50, "shorten KME_SITE"),
        ("KME_PROFILES", "/nonexistent", "/nonexistent"),
    ],
)
def test_a_wrong_setting_is_one_line(
    site: CertauthSite,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    says: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert run(monkeypatch, "certs") == 1
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1
    assert site.contents() == {}


def test_a_file_that_the_system_refuses_is_named(
    site: CertauthSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "certs")
    path = site.path("exchange/root.pem")
    path.unlink()
    path.mkdir()
    assert run(monkeypatch, "certs") == 1
    assert f"certauth: {path}: Is a directory: is the volume mounted" in capsys.readouterr().err


def test_the_entry_runs_it(tmp_path: Path) -> None:
    environ = {**os.environ, **environment(tmp_path)}
    command = [sys.executable, str(ENTRY), "certs"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "root: made; valid until " in done.stdout
    assert (tmp_path / "ca" / "root-key.pem").stat().st_mode & 0o777 == 0o600
