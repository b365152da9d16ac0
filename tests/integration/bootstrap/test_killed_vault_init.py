"""vault_init is killed again and again, anywhere; in the end the site is as if it never was."""

import random
import signal
from pathlib import Path

import pytest

from fresh_vault import FreshVault, fresh_vault
from vault_configuration import read_configuration, without_identities

PROGRAM = Path(__file__).parents[2] / "support" / "dying_vault_init.py"
HALF_INITIALISED = 3
MAX_RUNS = 150


def run_until_done(vault: FreshVault, run: str, chance: random.Random, reach: int) -> int:
    """Run and die until one run comes to its end; return how often it died."""
    for n_deaths in range(MAX_RUNS):
        number, moment = chance.randint(1, reach), chance.choice(["before", "after"])
        done = vault.run(str(number), moment, run, program=PROGRAM)
        assert "hvs." not in done.stderr
        if done.returncode == HALF_INITIALISED:
            vault.empty()
        elif done.returncode == 0:
            return n_deaths
        else:
            assert done.returncode == -signal.SIGKILL, done.stderr
    raise AssertionError("it never came to its end")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_runs_that_died_anywhere_end_like_one_that_did_not(
    installed: FreshVault, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    with fresh_vault(tmp_path / "site") as vault:
        n_first = run_until_done(vault, "--first", chance, 24)
        requests = {path: path.read_bytes() for path in vault.places.exchange.glob("*.csr")}
        vault.sign()
        n_second = run_until_done(vault, "--second", chance, 32)
        assert n_first + n_second > 3
        assert {path: path.read_bytes() for path in requests} == requests
        assert names(vault.places.out) == names(installed.places.out)
        assert names(vault.places.state) == names(installed.places.state)
        for run in ("--first", "--second"):
            assert "nothing_to_do" in vault.run(run).stderr
        found = without_identities(read_configuration(vault))
        expected = without_identities(read_configuration(installed))
    assert "rest-server" in found["authorities"]["services"]
    assert found == expected


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_no_death_around_initialising_loses_the_shares(
    tmp_path: Path, number: int, moment: str
) -> None:
    with fresh_vault(tmp_path / "site") as vault:
        assert vault.run(str(number), moment, "--first", program=PROGRAM).returncode == -9
        done = vault.run("--first")
        answer_was_lost = (number, moment) in {(2, "after"), (3, "before"), (3, "after")}
        answer_was_lost |= (number, moment) == (4, "before")
        assert done.returncode == (HALF_INITIALISED if answer_was_lost else 0), done.stderr
        if answer_was_lost:
            vault.empty()
            assert vault.run("--first").returncode == 0
        assert not vault.places.initialising.exists()


def test_a_root_token_that_a_killed_run_left_is_revoked_by_the_next(tmp_path: Path) -> None:
    with fresh_vault(tmp_path / "site") as vault:
        assert vault.run("20", "after", "--first", program=PROGRAM).returncode == -9
        done = vault.run("--first")
        assert done.returncode == 0
        assert "left_over_root_token_revoked" in done.stderr
        again = vault.run("--second")
        assert "left_over" not in again.stderr


def test_a_stopped_run_revokes_its_root_token_on_the_way_out(tmp_path: Path) -> None:
    with fresh_vault(tmp_path / "site") as vault:
        assert vault.run("--first").returncode == 0
        for path in vault.places.exchange.glob("*.csr"):
            path.unlink()
        done = vault.run("7", "term", "--first", program=PROGRAM)
        assert done.returncode == 128 + signal.SIGTERM, done.stderr
        assert "left_over" not in vault.run("--first").stderr
