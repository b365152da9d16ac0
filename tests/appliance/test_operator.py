"""What an operator does with `make`, and what comes of it at both ends."""

import base64
import re
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from two_kmes import ROOT, Site, TwoKmes, wait_for


class TestLooking:
    @pytest.mark.parametrize("target", ["check-config", "ps", "keys", "compare", "status", "saes"])
    def test_each_look_answers_at_both_ends(self, kmes: TwoKmes, target: str) -> None:
        for site in kmes.sites:
            done = site.make(target)
            assert done.returncode == 0, done.stderr
            assert done.stdout

    def test_both_ends_say_the_same_of_the_stock(self, kmes: TwoKmes) -> None:
        def stock() -> list[set[tuple[str, ...]]]:
            texts = [site.make("keys").stdout for site in kmes.sites]
            return [
                set(re.findall(r"│ (kme-\d) +│ (kme-\d) +│ (\d+) +│ (\d+)", text)) for text in texts
            ]

        wait_for(lambda: len(stock()[0]) == 2 and stock()[0] == stock()[1], 60.0)

    def test_inspect_shows_counts_and_digests_and_no_key(self, kmes: TwoKmes) -> None:
        done = kmes.first.make("inspect")
        assert done.returncode == 0
        assert "latest blocks" in done.stdout
        given = kmes.first.enc_keys(kmes.second, 5)
        for key in given.keys.values():
            assert base64.b64encode(key).decode() not in done.stdout
            assert key.hex() not in done.stdout


def test_the_audit_log_is_rotated_while_keys_flow(kmes: TwoKmes) -> None:
    done = kmes.first.make("rotate-audit")
    assert done.returncode == 0, done.stderr
    assert kmes.deliver(*kmes.sites)
    vault = kmes.first.container("vault")
    # An idle KME writes some lines a second: heartbeats.
    wait_for(lambda: vault.get_archive("/vault/audit/audit.log")[1]["size"] > 0, 10.0)


def test_stopped_and_started_it_serves_the_same_stock(kmes: TwoKmes) -> None:
    (key_id,) = kmes.first.enc_keys(kmes.second).keys
    assert kmes.second.make("down").returncode == 0
    wait_for(lambda: kmes.first.enc_keys(kmes.second).status == 503, 30.0)
    begun_s = time.monotonic()
    started = kmes.second.make("up")
    assert started.returncode == 0, started.stderr
    assert time.monotonic() - begun_s < 60.0
    # A key handed out before is there after it, once.
    wait_for(lambda: kmes.second.dec_keys(kmes.first, key_id).status == 200, 60.0)
    assert kmes.second.dec_keys(kmes.first, key_id).status == 400


def test_cleared_keys_are_gone_at_both_ends_and_fresh_ones_flow(kmes: TwoKmes) -> None:
    (key_id,) = kmes.first.enc_keys(kmes.second).keys
    done = kmes.second.make("clear")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: kmes.second.dec_keys(kmes.first, key_id).status == 400, 30.0)
    for master, slave in (kmes.sites, kmes.sites[::-1]):
        # Every worker hears of it within a second or so.
        wait_for(partial(refuses, master, slave), 10.0)
    kmes.refill()
    kmes.wait_until_served()
    assert "UNEQUAL" not in kmes.first.make("compare").stdout


def refuses(master: Site, slave: Site) -> bool:
    return master.enc_keys(slave).status == 503


class TestWrongInput:
    @pytest.mark.parametrize(
        ("name", "value", "word"),
        [
            ("KME_ID", "", "KME_ID"),
            ("KME_HOST", "192.0.2.1", "no address"),
            ("KME_SAE_PORT", "99999", "65535"),
            ("KME_PEER_PORT", "18010", "the same"),
            ("KME_LINKS", "kme-2", "KME/SOURCE"),
            ("KME_LINKS", "kme-1/qkd-1", "itself"),
            ("KME_THRESHOLD", "9", "larger"),
            ("KME_QKD", "perhaps", "yes or no"),
        ],
    )
    def test_a_wrong_setting_is_named_before_anything_starts(
        self, kmes: TwoKmes, tmp_path: Path, name: str, value: str, word: str
    ) -> None:

        folder = tmp_path
        lines = [
            line
            for line in (kmes.first.folder / ".env").read_text().splitlines()
            if not line.startswith(f"{name}=")
        ]
        (folder / ".env").write_text("\n".join([*lines, f"{name}={value}"]) + "\n")
        done = subprocess.run(
            [ROOT / "scripts" / "appliance", "check-config"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "SITE": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert word in done.stderr

    def test_a_missing_env_file_says_what_to_copy(self, tmp_path: Path) -> None:
        done = subprocess.run(
            ["make", "init", f"SITE={tmp_path}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "cp .env.example" in done.stderr

    def test_a_port_in_use_is_named(self, kmes: TwoKmes, tmp_path: Path) -> None:

        settings = (kmes.first.folder / ".env").read_text()
        folder = tmp_path
        (folder / ".env").write_text(
            settings.replace("KME_PROJECT=two-kme-1", "KME_PROJECT=two-kme-9")
        )
        done = subprocess.run(
            ["make", "init", f"SITE={folder}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "is in use by another program" in done.stderr

    def test_our_own_bundle_and_garbage_are_refused(self, kmes: TwoKmes) -> None:
        own = kmes.first.folder / "exchange" / "kme-1.json"
        assert kmes.first.make("connect", PEER=str(own)).returncode != 0
        garbage = kmes.first.folder / "exchange" / "garbage.json"
        garbage.write_text("{}")
        done = kmes.first.make("connect", PEER=str(garbage))
        assert done.returncode != 0
        assert "no bundle" in done.stderr
