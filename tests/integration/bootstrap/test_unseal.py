"""The unsealer as a process, beside a real Vault that is restarted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fresh_vault import REPOSITORY, FreshVault, fresh_vault
from kme.bootstrap.shares import read_shares, write_shares
from kme.secret import Secret

WITHIN_S = 20.0


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshVault]:
    with fresh_vault(tmp_path_factory.mktemp("unsealed") / "site") as vault:
        vault.set_up()
        yield vault


class Unsealer:
    """The process, its log and the file that it touches."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, alive: Path) -> None:
        self.process = process
        self.alive = alive
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def unsealer(vault: FreshVault, folder: Path, shares: Path | None = None) -> Iterator[Unsealer]:
    """Run it until the end of the context; a SIGTERM must end it at once."""
    address, alive, log = vault.address_of("unsealer"), folder / "alive", folder / "log"
    environment = vault.environment() | {
        "KME_VAULT__CA": str(address.ca),
        "KME_VAULT__CERTIFICATE": str(address.credential.certificate),
        "KME_VAULT__KEY": str(address.credential.key),
        "KME_SHARES_FILE": str(shares or vault.places.unsealer_shares),
        "KME_ALIVE": str(alive),
        "KME_RETRY_INTERVAL_S": "1",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, REPOSITORY / "services/unsealer/unsealer.py"],
            env=environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield Unsealer(process, log, alive)
    finally:
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait(10)
        assert (code, time.monotonic() - began < 1) == (0, True), log.read_text()
        assert not any(share.to_base64() in log.read_text() for share in read_all(vault))


def read_all(vault: FreshVault) -> list[Secret]:
    places = vault.places
    return [*read_shares(places.unsealer_shares), *read_shares(places.offline_shares)]


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_active(vault: FreshVault) -> bool:
    health = vault.get("/v1/sys/health")
    return health["initialized"] and not health["sealed"] and not health["standby"]


def test_vault_serves_again_soon_after_a_restart(vault: FreshVault, tmp_path: Path) -> None:
    with unsealer(vault, tmp_path) as program:
        wait_for(program.alive.exists)
        vault.stop()
        time.sleep(1.5)
        touched = program.alive.stat().st_mtime_ns
        time.sleep(1.5)
        assert program.alive.stat().st_mtime_ns == touched
        began = time.monotonic()
        vault.start()
        wait_for(lambda: is_active(vault))
        assert time.monotonic() - began < 10
        wait_for(lambda: program.alive.stat().st_mtime_ns > touched)
        assert "Vault does not answer" in program.said


def test_wrong_shares_are_said_and_right_ones_taken_up(vault: FreshVault, tmp_path: Path) -> None:
    vault.stop()
    vault.start()
    shares = tmp_path / "shares.json"
    right = read_shares(vault.places.unsealer_shares)
    with unsealer(vault, tmp_path, shares) as program:
        wait_for(lambda: "cannot be read" in program.said)
        shares.write_text('{"shares": ["no base64"]}')
        wait_for(lambda: "not a file of unseal shares" in program.said)
        write_shares(shares, [Secret(one.reveal()[::-1]) for one in right], 0o640)
        wait_for(lambda: "did not unseal it" in program.said)
        assert not program.alive.exists()
        write_shares(shares, right, 0o640)
        wait_for(program.alive.exists)
        wait_for(lambda: is_active(vault))


def test_an_empty_vault_is_waited_for(tmp_path: Path, vault: FreshVault) -> None:
    with fresh_vault(tmp_path / "site") as empty:
        # Any certificate that the listener lets in will do.
        folder = empty.places.out / "unsealer"
        for name in ("client.pem", "client-key.pem", "vault-ca.pem"):
            (folder / name).write_bytes(
                (empty.directory / "certauth/out/vault_init" / name).read_bytes()
            )
        write_shares(empty.places.unsealer_shares, [Secret(bytes(33))], 0o640)
        write_shares(empty.places.offline_shares, [Secret(bytes(34))], 0o600)
        with unsealer(empty, tmp_path) as program:
            wait_for(lambda: "not initialised" in program.said)
            assert not program.alive.exists()


def test_watching_costs_next_to_nothing(vault: FreshVault, tmp_path: Path) -> None:
    with unsealer(vault, tmp_path) as program:
        wait_for(program.alive.exists)
        began, cpu_s = time.monotonic(), program.cpu_s()
        time.sleep(10)
        share = (program.cpu_s() - cpu_s) / (time.monotonic() - began)
    assert share < 0.01, f"{100 * share:.2f} % of one core"
