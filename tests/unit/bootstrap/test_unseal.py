"""What the unsealer does at a look, by what a small seal answers."""

import logging
from pathlib import Path
from typing import Any

import pytest

from kme.bootstrap.shares import write_shares
from kme.bootstrap.unseal import Pace, Unsealer
from kme.errors import SettingsError, StoreUnavailableError, UnavailableError
from kme.secret import Secret

SHARES = [Secret(bytes([n]) * 33) for n in range(1, 4)]
PACE = Pace(look_s=1.0, after_failure_s=10.0)


class SmallSeal:
    """A seal that needs three shares."""

    def __init__(self) -> None:
        self.is_initialised = True
        self.is_sealed = True
        self.is_away = False
        self.submitted: set[str] = set()
        self.n_resets = 0

    def status(self) -> dict[str, Any]:
        if self.is_away:
            raise StoreUnavailableError("Vault does not answer")
        return {
            "initialized": self.is_initialised,
            "sealed": self.is_sealed,
            "progress": len(self.submitted),
        }

    def unseal(self, body: dict[str, object]) -> dict[str, Any]:
        if body.get("reset"):
            self.submitted, self.n_resets = set(), self.n_resets + 1
            return self.status()
        self.submitted.add(str(body["key"]))
        if len(self.submitted) == 3:
            if self.submitted != {share.to_base64() for share in SHARES}:
                self.submitted = set()
                raise UnavailableError("Vault answers 400")
            self.is_sealed, self.submitted = False, set()
        return self.status()


@pytest.fixture
def seal() -> SmallSeal:
    return SmallSeal()


@pytest.fixture
def unsealer(seal: SmallSeal, tmp_path: Path) -> Unsealer:
    write_shares(tmp_path / "shares.json", SHARES, 0o640)
    return Unsealer(seal, tmp_path / "shares.json", tmp_path / "alive", PACE)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_a_sealed_vault_is_unsealed_and_the_process_shows_that_it_lives(
    seal: SmallSeal, unsealer: Unsealer, tmp_path: Path
) -> None:
    assert unsealer.look() == PACE.look_s
    assert not seal.is_sealed
    assert (tmp_path / "alive").exists()


def test_what_somebody_else_submitted_before_is_forgotten(
    seal: SmallSeal, unsealer: Unsealer
) -> None:
    seal.submitted = {"a stranger's"}
    unsealer.look()
    assert seal.n_resets == 1
    assert not seal.is_sealed


@pytest.mark.parametrize("state", ["empty", "away"])
def test_a_vault_that_cannot_be_unsealed_yet_is_looked_at_again_soon(
    seal: SmallSeal, unsealer: Unsealer, tmp_path: Path, state: str
) -> None:
    seal.is_initialised, seal.is_away = state != "empty", state == "away"
    assert unsealer.look() == PACE.look_s
    assert not (tmp_path / "alive").exists()


def test_wrong_shares_are_said_and_tried_again_slowly(
    seal: SmallSeal, unsealer: Unsealer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shares(tmp_path / "shares.json", [*SHARES[:2], Secret(bytes(33))], 0o640)
    assert unsealer.look() == PACE.after_failure_s
    assert "did not unseal it" in caplog.text
    write_shares(tmp_path / "shares.json", SHARES[:2], 0o640)
    assert unsealer.look() == PACE.after_failure_s
    assert not (tmp_path / "alive").exists()
    write_shares(tmp_path / "shares.json", SHARES, 0o640)
    assert unsealer.look() == PACE.look_s


def test_a_file_that_cannot_be_read_is_said_and_tried_again_slowly(
    unsealer: Unsealer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shares.json").unlink()
    assert unsealer.look() == PACE.after_failure_s
    assert "shares.json: the unseal shares cannot be read" in caplog.text


def test_a_vault_that_goes_away_in_the_middle_is_looked_at_again(
    seal: SmallSeal, unsealer: Unsealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(body: dict[str, object]) -> dict[str, Any]:
        raise StoreUnavailableError("Vault does not answer")

    monkeypatch.setattr(seal, "unseal", away)
    assert unsealer.look() == PACE.after_failure_s


def test_a_state_that_lasts_is_said_once(
    unsealer: Unsealer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        unsealer.look()
    assert [record.getMessage() for record in caplog.records] == ["Vault is unsealed"]


def test_no_share_is_ever_said(
    seal: SmallSeal, unsealer: Unsealer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Secret(bytes(range(33)))
    write_shares(tmp_path / "shares.json", [*SHARES[:2], wrong], 0o640)
    unsealer.look()
    write_shares(tmp_path / "shares.json", SHARES, 0o640)
    unsealer.look()
    assert not any(share.to_base64() in caplog.text for share in (*SHARES, wrong))


def test_a_file_that_cannot_be_touched_ends_the_process(seal: SmallSeal, tmp_path: Path) -> None:
    write_shares(tmp_path / "shares.json", SHARES, 0o640)
    alive = tmp_path / "absent" / "alive"
    with pytest.raises(SettingsError, match="alive: cannot be written"):
        Unsealer(seal, tmp_path / "shares.json", alive, PACE).look()  # type: ignore[arg-type]
