"""qkd_sim.parties: two processes, one socket between them, and what comes of both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from errcd_parties import noisy_pair
from kme.epochs.finalkey import FinalKeyFile, read_final_key
from kme.errors import StageError
from kme.ids import Epoch
from link_runs import parties_about
from qkd_sim import parties
from qkd_sim.chain import Side
from qkd_sim.errors import StoppedError
from qkd_sim.packets import Type3
from qkd_sim.parties import Parties

START = 0x4F86
BLOCKS = [(Epoch(START), 2), (Epoch(START + 2), 2), (Epoch(START + 4), 2)]
QBERS = (0.03, 0.2, 0.02)
SOON_S = 20.0
"""Much longer than a party takes to notice anything, much shorter than any of its time-outs."""


@dataclass(frozen=True)
class Link:
    """Both sides' folders, with raw keys of three blocks of two epochs."""

    root: Path
    hec: Side
    lec: Side

    def parties(self, seed: int | None = 1) -> Parties:
        return Parties(self.hec, self.lec, seed)

    def final_keys(self) -> tuple[list[FinalKeyFile], list[FinalKeyFile]]:
        hec, lec = (
            [read_final_key(path) for path in sorted(side.final.iterdir())]
            for side in (self.hec, self.lec)
        )
        return hec, lec


@pytest.fixture
def link(tmp_path: Path) -> Link:
    root = tmp_path / "a link"
    rng = np.random.default_rng(5)
    hec, lec = (Side(root / side, root / side / "final") for side in ("hec", "lec"))
    for i in range(6):
        keys = noisy_pair(rng, 8000 + i, QBERS[i // 2])
        for side, key in zip((hec, lec), keys, strict=True):
            Type3(Epoch(START + i), key, 1).write(side.folder("rawkey"))
    return Link(root, hec, lec)


class When:
    """Asked every moment whether to stop; acts once both parties are at work."""

    def __init__(self, link: Link, act: Callable[[dict[str, int]], bool]) -> None:
        self._link = link
        self._act = act
        self.has_acted = False

    def __call__(self) -> bool:
        found = list(parties_about(self._link.root))
        if self.has_acted or len(found) < 2:
            return False
        self.has_acted = True
        pids = {"alice" if any("--block" in w for w in words) else "bob": pid
                for pid, words in found}  # fmt: skip
        return self._act(pids)


def test_blocks_give_equal_keys_and_figures_of_all_and_a_refused_one_spoils_no_other(
    link: Link,
) -> None:
    facts = link.parties().reconcile(BLOCKS)
    hec, lec = link.final_keys()
    assert hec == lec
    assert [(key.start_epoch, key.n_epochs) for key in hec] == [BLOCKS[0], BLOCKS[2]]
    assert (facts["blocks"], facts["refused_blocks"]) == (2, 1)
    assert facts["final_bits"] == sum(key.n_bits for key in hec)
    numbers = {name: value for name, value in facts.items() if isinstance(value, int | float)}
    assert numbers["sample_bits"] + numbers["key_bits"] == 8000 + 8001 + 8004 + 8005
    assert numbers["verification_bits"] == 2 * 64
    assert numbers["epsilon"] == pytest.approx(2e-10, rel=0.01)
    assert 1.0 < numbers["efficiency"] < 1.2
    errors = numbers["qber"] * numbers["sample_bits"]
    assert errors == pytest.approx(round(errors), abs=0.05)
    assert not list(parties_about(link.root))


def test_two_processes_share_nothing_but_a_socket(link: Link) -> None:
    seen: dict[str, set[str]] = {}
    words: dict[str, list[str]] = {}

    def look(pids: dict[str, int]) -> bool:
        for name, pid in pids.items():
            seen[name] = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
            words[name] = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return True

    with pytest.raises(StoppedError):
        link.parties().reconcile(BLOCKS, When(link, look))
    assert not seen["alice"] & seen["bob"]
    for name in ("alice", "bob"):
        assert sum(target.startswith("socket:") for target in seen[name]) == 1
    for name, other in (("alice", link.lec), ("bob", link.hec)):
        assert not any(str(other.root) in word for word in words[name])


@pytest.mark.parametrize(("victim", "survivor"), [("alice", "bob"), ("bob", "alice")])
def test_a_party_that_is_killed_ends_the_stage_and_the_other_party(
    victim: str, survivor: str, link: Link
) -> None:
    def kill(pids: dict[str, int]) -> bool:
        os.kill(pids[victim], signal.SIGKILL)
        return False

    begins_s = time.monotonic()
    with pytest.raises(StageError) as failed:
        link.parties().reconcile(BLOCKS, When(link, kill))
    assert time.monotonic() < begins_s + SOON_S
    assert failed.value.stage == "errcd"
    assert f"{victim}: was killed by signal 9" in failed.value.message
    assert f"{survivor}: " in failed.value.message
    assert "\n" not in failed.value.message
    assert not list(parties_about(link.root))


def test_both_parties_are_gone_when_the_stage_is_stopped(link: Link) -> None:
    begins_s = time.monotonic()
    with pytest.raises(StoppedError):
        link.parties().reconcile(BLOCKS, When(link, lambda _pids: True))
    assert time.monotonic() < begins_s + SOON_S
    assert not list(parties_about(link.root))


def test_parties_that_take_too_long_are_given_up(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parties, "PARTY_TIMEOUT_S", 0.1)
    with pytest.raises(StageError, match="errcd: a party did not end within"):
        link.parties().reconcile(BLOCKS)
    assert not list(parties_about(link.root))


def test_parties_end_with_the_process_that_started_them(link: Link) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom kme.ids import Epoch\n"
        "from qkd_sim.chain import Side\nfrom qkd_sim.parties import Parties\n"
        "root = Path(sys.argv[1])\n"
        "sides = [Side(root / name, root / name / 'final') for name in ('hec', 'lec')]\n"
        # Bob waits for ever: the raw key that Alice is to offer is a pipe that nobody fills.
        f"Parties(*sides, None).reconcile([(Epoch({START}), 4)])\n"
    )
    first = link.hec.folder("rawkey") / Epoch(START).file_name
    first.unlink()
    os.mkfifo(first)
    with subprocess.Popen([sys.executable, "-c", program, str(link.root)]) as parent:
        deadline_s = time.monotonic() + SOON_S
        while len(list(parties_about(link.root))) < 2:
            assert time.monotonic() < deadline_s, "the parties were not started"
            time.sleep(0.02)
        parent.kill()
        parent.wait(timeout=20)
        while list(parties_about(link.root)):
            assert time.monotonic() < deadline_s, "the parties outlived their parent"
            time.sleep(0.02)


def test_a_spoilt_raw_key_is_named_with_the_side_that_has_it(link: Link) -> None:
    spoilt = link.lec.folder("rawkey") / Epoch(START).file_name
    spoilt.write_bytes(spoilt.read_bytes()[:50])
    with pytest.raises(StageError, match=r"^errcd: ") as refused:
        link.parties().reconcile(BLOCKS)
    assert f"bob: {spoilt}: byte " in refused.value.message
    assert "\n" not in refused.value.message


def test_no_block_at_all_is_an_error(link: Link) -> None:
    with pytest.raises(StageError, match="errcd: there is no block of sifted key"):
        link.parties().reconcile([])


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("too many errors in the sample", "; somebody listens, or the analysers are out of line: "),
        ("nothing secret would be left", "; simulate longer, or more pairs, or fewer errors"),
        ("the peer refuses the block: the keys still differ after reconciliation", "; try again"),
        ("of another kind", ""),
    ],
)
def test_why_no_block_gave_a_key_is_said_with_what_to_try(reason: str, advice: str) -> None:
    result = {"refused": reason, "qber": 0.125, "sifted_bits": 100, "final_bits": 0}
    said = parties._refusal([result] * 2)
    assert said.startswith(f"no block gave a key: {reason} (QBER 12.5%, 200 sifted bits){advice}")
    assert bool(advice) or said.endswith("bits)")


def test_a_block_that_was_refused_before_its_sample_has_no_error_rate() -> None:
    said = parties._refusal([{"refused": "one side has no raw key", "final_bits": 0}])
    assert said == "no block gave a key: one side has no raw key"
