"""`make init`: twice changes nothing; killed anywhere, the next run finishes."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from two_kmes import ROOT, Site, TwoKmes

_KILLS = 10


def _files(kmes: TwoKmes, site: Site) -> dict[str, str]:
    """Return a digest of every file that the first start makes."""
    project = site.settings["KME_PROJECT"]
    volumes = ("ca-private", "ca-exchange", "vault-tls", "vault-init-tls", "unsealer-tls",
               "watcher-tls", "rest-tls", "traefik-tls", "operator-tls", "sae")  # fmt: skip
    text = kmes.docker.containers.run(
        "kme/volumes:dev",
        entrypoint=["sh", "-c", "cd /volumes && find . -type f -exec sha256sum {} +"],
        user="0:0",
        network_mode="none",
        remove=True,
        volumes=[f"{project}_{volume}:/volumes/{volume}:ro" for volume in volumes],
    )
    return {
        name: digest
        for digest, name in (line.split(maxsplit=1) for line in text.decode().splitlines())
    }


def test_a_second_run_changes_no_file(kmes: TwoKmes) -> None:
    before = _files(kmes, kmes.first)
    assert len(before) > 20
    again = kmes.first.make("init")
    assert again.returncode == 0, again.stdout + again.stderr
    assert _files(kmes, kmes.first) == before


class Third:
    """An installation that is killed again and again."""

    def __init__(self) -> None:
        self.folder = ROOT / "build" / "two-kmes" / "kme-3"
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = (self.folder.parent / "kme-1" / ".env").read_text()
        for old, new in (("kme-1", "kme-3"), ("=18010", "=18030"), ("=18011", "=18031")):
            settings = settings.replace(old, new)
        lines = [
            line for line in settings.splitlines()
            if not line.startswith(("KME_COMPOSE_FILE=", "KME_QKD=", "KME_SITE="))
        ]  # fmt: skip
        lines += ["KME_QKD=no", "KME_SITE=Site 3"]
        (self.folder / ".env").write_text("\n".join(lines) + "\n")

    def start(self, target: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["make", "--no-print-directory", target, f"SITE={self.folder}"],
            cwd=ROOT,
            env={**os.environ, "YES": "yes"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def make(self, target: str) -> tuple[int, str]:
        with self.start(target) as process:
            text, _ = process.communicate(timeout=300)
            return process.returncode, text.decode()


@pytest.fixture
def third() -> Iterator[Third]:
    """Return a third appliance, made for this test and removed after it."""
    site = Third()
    yield site
    code, text = site.make("clean")
    assert code == 0, text


def test_an_installation_killed_ten_times_is_finished_by_the_next_run(
    kmes: TwoKmes, third: Third
) -> None:
    rng = random.Random(2026)
    for _ in range(_KILLS):
        process = third.start("init")
        time.sleep(rng.uniform(0.5, 14.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # What the killed command left running in Docker dies as well.
        for container in kmes.docker.containers.list(
            filters={"label": "com.docker.compose.project=two-kme-3"}
        ):
            if rng.random() < 0.7:
                container.kill("SIGKILL")
    code, text = third.make("init")
    assert code == 0, text
    code, text = third.make("up")
    assert code == 0, text
