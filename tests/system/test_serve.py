"""`kme serve`: two KMEs that run on, through the death of one and through a restart."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kme.errors import KeyNotFoundError, KmeError
from kme.etsi014.client import DeliveredKey, Sae014Client, open_client
from kme.ids import KmeId, SaeId
from kme.pair import PORTS_NEEDED, free_ports
from kme.pki.bundle import CredentialFiles
from small_scenario import small_scenario


def _base_port() -> int:
    return free_ports(PORTS_NEEDED)[0]


@contextmanager
def _serving(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    ready = directory.parent / "ready"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "kme", "serve", "--dir", str(directory)]
    command += ["--ready-file", str(ready), *options]
    with (directory.parent / "screen.txt").open("w") as screen:
        process = subprocess.Popen(command, stdout=screen, stderr=screen, text=True)
    try:
        _wait_for(ready.exists, 90, process)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait(timeout=30)


def _wait_for(condition: Any, timeout_s: float, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "kme serve ended"
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.1)


def _description(directory: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((directory / "pair.json").read_text())
    return described


def _client(directory: Path, name: str) -> AbstractAsyncContextManager[Sae014Client]:
    """Connect an SAE by nothing but what pair.json says."""
    described = _description(directory)
    [sae] = [sae for sae in described["saes"] if sae["id"] == name]
    [kme] = [kme for kme in described["kmes"] if kme["id"] == sae["kme"]]
    return open_client(
        kme["sae_url"],
        CredentialFiles(Path(sae["cert"]), Path(sae["key"])),
        Path(kme["ca"]),
        KmeId(kme["id"]),
    )


async def _enc(directory: Path, master: str, slave: str) -> DeliveredKey:
    async with _client(directory, master) as client:
        for _ in range(300):
            try:
                [key] = await client.enc_keys(SaeId(slave))
            except KmeError:
                await asyncio.sleep(0.1)
            else:
                return key
        pytest.fail("no key came")


async def _dec(directory: Path, slave: str, master: str, key_id: str) -> DeliveredKey:
    async with _client(directory, slave) as client:
        for _ in range(300):
            try:
                [key] = await client.dec_keys(SaeId(master), [key_id])
            except KeyNotFoundError:
                raise
            except KmeError:
                await asyncio.sleep(0.1)
            else:
                return key
        pytest.fail("no key came")


def test_random_source_restart_of_a_dead_kme_and_second_start(tmp_path: Path) -> None:
    directory = tmp_path / "a pair"
    options = ["--source", "random", "--base-port", str(_base_port())]
    options += ["--sae", "alice@kme-a", "--sae", "bob@kme-b"]
    with _serving(directory, *options):
        described = _description(directory)
        assert {sae["id"]: sae["kme"] for sae in described["saes"]} == {
            "alice": "kme-a",
            "bob": "kme-b",
        }
        one = asyncio.run(_enc(directory, "alice", "bob"))
        kept = asyncio.run(_enc(directory, "bob", "alice"))
        victim = described["kmes"][1]["pid"]
        os.kill(victim, signal.SIGKILL)
        same = asyncio.run(_dec(directory, "bob", "alice", one.key_id))
        assert same.key == one.key
        assert _description(directory)["kmes"][1]["pid"] != victim
        second = subprocess.run(
            [sys.executable, "-m", "kme", "serve", "--dir", str(directory)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert "another `kme serve` runs there" in second.stderr
    screen = (tmp_path / "screen.txt").read_text()
    assert "no quantum key" in screen
    assert "kme-b: ended with code -9 and is started again" in screen
    with _serving(directory, *options):
        # What was promised before the stop holds after it; what was drawn stays drawn.
        assert asyncio.run(_dec(directory, "alice", "bob", kept.key_id)).key == kept.key
        with pytest.raises(KeyNotFoundError):
            asyncio.run(_dec(directory, "bob", "alice", one.key_id))
        fresh = asyncio.run(_enc(directory, "alice", "bob"))
        assert fresh.key_id != one.key_id
        assert asyncio.run(_dec(directory, "bob", "alice", fresh.key_id)).key == fresh.key


def test_a_running_link_and_the_printed_curl_lines(tmp_path: Path) -> None:
    directory = tmp_path / "pair"
    scenario = small_scenario(tmp_path)
    port = str(_base_port())
    with _serving(directory, "--base-port", port, "--scenario", str(scenario)):
        screen = (tmp_path / "screen.txt").read_text()
        enc, dec = re.findall(r"^curl .*$", screen, re.MULTILINE)
        got = subprocess.run(enc, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
        [key] = json.loads(got.stdout)["keys"]
        line = dec.replace("KEY_ID", key["key_ID"])
        same = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)  # noqa: S602
        assert json.loads(same.stdout)["keys"] == [key]
        status = subprocess.run(
            [sys.executable, "-m", "kme", "status", "--dir", str(directory)],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert "qkd" in status.stdout
        assert "RANDOM" not in status.stdout


def test_a_port_in_use_is_said_with_what_to_do(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "kme", "serve", "--dir", str(tmp_path / "pair"),
             "--source", "random", "--base-port", str(port)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"127.0.0.1:{port}: cannot listen there" in done.stderr


@pytest.mark.parametrize("command", [["serve", "--seed", "7"], ["run", "--seed", "7"]])
def test_serve_and_run_refuse_a_seed(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kme", *command],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--seed" in done.stderr


def test_a_link_that_cannot_start_ends_it_instead_of_being_tried_for_ever(tmp_path: Path) -> None:
    scenario = tmp_path / "wrong.toml"
    scenario.write_text("[source]\npair_rate_khz = 5\n")
    done = subprocess.run(
        [sys.executable, "-m", "kme", "serve", "--dir", str(tmp_path / "pair"),
         "--scenario", str(scenario), "--base-port", str(_base_port())],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "[source] pair_rate_khz is unknown" in done.stdout
    assert "[source] pair_rate_khz is unknown" in done.stderr.splitlines()[-1]


def test_both_kmes_and_the_link_stop_within_a_few_seconds(tmp_path: Path) -> None:
    options = ("--source", "random", "--base-port", str(_base_port()))
    with _serving(tmp_path / "pair", *options) as process:
        started_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - started_s < 4.0
