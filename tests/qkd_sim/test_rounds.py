"""qkd_sim.rounds: stretch after stretch, no epoch twice, nothing left behind.

The stages themselves are left out here, and tested with `chain` and the program `run`.
"""

import itertools
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kme.epochs.qkde import StageReport
from kme.epochs.used import UsedEpochs
from kme.errors import StageError
from kme.ids import Epoch
from kme.units import EPOCH_SECONDS
from link_runs import SMALL
from qkd_sim import rounds
from qkd_sim.chain import Side, Stretch, whole_epochs
from qkd_sim.errors import InputError, StoppedError
from qkd_sim.rounds import MAX_WAITING_FILES, Rounds, single

N_EPOCHS = whole_epochs(SMALL)
NOON_S = 1_763_726_400.0


class SteppingClock:
    """A clock that moves a bit each time that somebody looks at it; its wall time may be set."""

    def __init__(self) -> None:
        self.monotonic = 50.0
        self.unix_s = NOON_S

    def monotonic_s(self) -> float:
        self.pass_time(EPOCH_SECONDS / 2)
        return self.monotonic

    def now_s(self) -> float:
        return self.unix_s

    def pass_time(self, duration_s: float) -> None:
        self.monotonic += duration_s
        self.unix_s += duration_s

    async def sleep(self, duration_s: float) -> None:
        self.pass_time(duration_s)


class Photons:
    """Stands for the chain: takes time, writes a sifted key, and does what a test wants."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.act: Callable[[Stretch], None] = lambda _stretch: None
        self.is_stopped: Callable[[], bool] = lambda: False

    def __call__(
        self,
        hec: Side,
        lec: Side,
        _report: Callable[[StageReport], None],
        is_stopped: Callable[[], bool],
    ) -> "Photons":
        self.sides = (hec, lec)
        self.is_stopped = is_stopped
        return self

    def run(self, stretch: Stretch) -> None:
        assert not self.sides[0].root.exists(), "files of an earlier stretch lie there"
        self.stretches.append(stretch)
        for side in self.sides:
            (side.folder("rawkey") / stretch.start.file_name).write_bytes(b"sifted key")
        self.act(stretch)

    @property
    def used(self) -> list[int]:
        """Every epoch of every stretch that was begun."""
        return [stretch.start.number + i for stretch in self.stretches for i in range(N_EPOCHS)]


@pytest.fixture
def photons(monkeypatch: pytest.MonkeyPatch) -> Photons:
    photons = Photons()
    monkeypatch.setattr(rounds, "Chain", photons)
    # Nobody waits in earnest: the clock steps by itself.
    monkeypatch.setattr(rounds, "_LONGEST_LOOK_S", 0.0)
    return photons


class Link:
    """A running link in a folder, which may be started again."""

    def __init__(self, root: Path) -> None:
        self.clock = SteppingClock()
        self.work = root / "link"
        self.final = (root / "a", root / "b")
        self.stop = threading.Event()
        for folder in (self.work, *self.final):
            folder.mkdir()

    def rounds(self) -> Rounds:
        return Rounds(SMALL, self.work, self.final, self.clock)

    def run(self, photons: Photons, n_stretches: int) -> None:
        """Start it, and stop it within its last stretch of so many."""
        last = len(photons.stretches) + n_stretches

        def act(_stretch: Stretch) -> None:
            if len(photons.stretches) == last:
                self.stop.set()

        self.stop.clear()
        photons.act = act
        self.rounds().run(lambda _: None, self.stop)

    @property
    def left_behind(self) -> list[Path]:
        """Files other than the state."""
        return [path for path in self.work.rglob("*") if not path.name.startswith("last-epoch")]


@pytest.fixture
def link(tmp_path: Path) -> Link:
    return Link(tmp_path)


def test_stretches_follow_each_other_without_gap_or_overlap_as_time_goes(
    link: Link, photons: Photons
) -> None:
    link.run(photons, 5)
    starts = [stretch.start.number for stretch in photons.stretches]
    assert starts[0] in {Epoch.at_time(NOON_S).number, Epoch.at_time(NOON_S).number + 1}
    steps = {later - sooner for sooner, later in itertools.pairwise(starts)}
    # The clock steps by half an epoch at every look, so that one more may be over.
    assert steps <= {N_EPOCHS, N_EPOCHS + 1}
    assert len({stretch.seed for stretch in photons.stretches}) == 5
    assert all(stretch.protocol_seed is None for stretch in photons.stretches)
    assert not link.left_behind


def test_no_epoch_is_used_twice_over_restarts_crashes_and_clocks_that_are_set(
    link: Link, photons: Photons
) -> None:
    rng = random.Random(3)

    def crash(_stretch: Stretch) -> None:
        raise KeyboardInterrupt

    for _ in range(40):
        link.clock.unix_s += rng.choice([0.0, 0.0, -3600.0, -1.0, 1.0, 3600.0])
        if rng.random() < 0.5:
            link.run(photons, rng.randint(1, 3))
        else:
            photons.act = crash
            with pytest.raises(KeyboardInterrupt):
                link.rounds().run(lambda _: None, threading.Event())
    assert len(photons.stretches) > 60
    assert len(set(photons.used)) == len(photons.used)
    assert photons.used == sorted(photons.used)


def test_a_clock_that_is_put_right_does_not_halt_the_link(link: Link, photons: Photons) -> None:
    link.run(photons, 1)
    link.clock.unix_s -= 365 * 86_400.0
    begins_s = link.clock.monotonic
    link.run(photons, 10)
    assert link.clock.monotonic - begins_s < 2 * 10 * N_EPOCHS * EPOCH_SECONDS
    assert len(set(photons.used)) == 11 * N_EPOCHS


def test_the_files_of_a_stretch_are_gone_after_an_error(link: Link, photons: Photons) -> None:
    def fail(_stretch: Stretch) -> None:
        raise StageError("errcd", "too many errors")

    photons.act = fail
    with pytest.raises(StageError, match="too many errors"):
        link.rounds().run(lambda _: None, link.stop)
    assert not link.left_behind


def test_the_files_of_a_stretch_that_was_killed_are_gone_at_the_next_start(
    link: Link, photons: Photons
) -> None:
    # As SIGKILL leaves it.
    (link.work / "stretch" / "hec" / "rawkey").mkdir(parents=True)
    (link.work / "stretch" / "hec" / "rawkey" / "c0000000").write_bytes(b"sifted key")
    for folder in link.final:
        for number in range(MAX_WAITING_FILES):
            (folder / f"{number:08x}").touch()
    # Even if the link pauses at once: they are secrets that nobody needs.
    threading.Timer(0.2, link.stop.set).start()
    link.rounds().run(lambda _: None, link.stop)
    assert not photons.stretches
    assert not link.left_behind


def test_sifted_keys_that_cannot_be_removed_are_an_error(
    link: Link, photons: Photons, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(shutil, "rmtree", deny)
    with pytest.raises(InputError, match=r"stretch: cannot be removed: Operation not permitted"):
        link.rounds().run(lambda _: None, link.stop)
    assert not photons.stretches


def test_the_link_pauses_while_final_keys_pile_up_at_either_side(
    link: Link, photons: Photons
) -> None:
    waiting = [link.final[1] / f"{number:08x}" for number in range(MAX_WAITING_FILES)]
    for path in waiting:
        path.touch()
    runner = threading.Thread(target=link.rounds().run, args=(lambda _: None, link.stop))
    photons.act = lambda _stretch: link.stop.set()
    runner.start()
    runner.join(0.3)
    assert runner.is_alive()
    assert not photons.stretches
    waiting[0].unlink()
    runner.join(20)
    assert not runner.is_alive()
    assert len(photons.stretches) == 1


def test_a_stop_within_a_stretch_ends_the_link_without_an_error(
    link: Link, photons: Photons
) -> None:
    def stopped(_stretch: Stretch) -> None:
        assert not photons.is_stopped()
        link.stop.set()
        assert photons.is_stopped()
        raise StoppedError("stopped")

    photons.act = stopped
    link.rounds().run(lambda _: None, link.stop)
    assert len(photons.stretches) == 1
    assert not link.left_behind


def test_a_link_that_is_stopped_before_it_starts_uses_no_epoch(
    link: Link, photons: Photons
) -> None:
    link.stop.set()
    link.rounds().run(lambda _: None, link.stop)
    assert not photons.stretches
    assert not (link.work / "last-epoch").exists()


def test_a_stop_while_waiting_is_heeded(
    link: Link, photons: Photons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_LONGEST_LOOK_S", 60.0)
    monkeypatch.setattr(link.clock, "monotonic_s", lambda: 0.0)
    photons.act = lambda _stretch: threading.Timer(0.1, link.stop.set).start()
    runner = threading.Thread(target=link.rounds().run, args=(lambda _: None, link.stop))
    runner.start()
    runner.join(10)
    assert not runner.is_alive()


def test_an_epoch_is_on_disk_before_its_stretch_begins(
    link: Link, photons: Photons, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(_self: UsedEpochs, _now_s: float, _n_epochs: int) -> Epoch:
        raise InputError("last-epoch: cannot be written: No space left on device")

    monkeypatch.setattr(UsedEpochs, "take", unwritable)
    with pytest.raises(InputError, match="No space left"):
        link.rounds().run(lambda _: None, link.stop)
    assert not photons.stretches


def test_two_links_in_one_folder_are_refused(link: Link, photons: Photons) -> None:
    with (
        UsedEpochs(link.work / "last-epoch").alone(),
        pytest.raises(InputError, match="makes key there: stop it first"),
    ):
        link.rounds().run(lambda _: None, link.stop)
    assert not photons.stretches


# A single run


def test_a_single_run_without_a_seed_is_now_and_unrepeatable(link: Link) -> None:
    hec, lec, one = single(SMALL, link.work, link.final, None, link.clock)
    other = single(SMALL, link.work, link.final, None, link.clock)[2]
    assert (hec.root, lec.root) == (link.work / "hec", link.work / "lec")
    assert (hec.final, lec.final) == link.final
    assert one.start == Epoch.at_time(NOON_S)
    assert one.seed != other.seed
    assert one.protocol_seed is None


def test_a_seed_fixes_everything_and_its_time_is_long_ago(link: Link) -> None:
    stretches = [single(SMALL, link.work, link.final, seed, link.clock)[2] for seed in (7, 7, 8)]
    assert stretches[0] == stretches[1]
    assert stretches[0].protocol_seed == stretches[0].seed == 7
    assert stretches[0].start != stretches[2].start
    for seed in (0, 7, 2**63 - 1):
        start = single(SMALL, link.work, link.final, seed, link.clock)[2].start
        # No real key has the epochs of a repeatable one.
        assert start.number + N_EPOCHS < Epoch.at_time(1.6e9).number
        assert not start.is_local


@pytest.mark.parametrize("side", ["hec", "lec"])
def test_a_folder_with_an_earlier_run_is_refused(link: Link, side: str) -> None:
    (link.work / side).mkdir()
    (link.work / side / "events.raw").touch()
    with pytest.raises(StageError, match=r"^esim: .*link: holds an earlier run; name an empty"):
        single(SMALL, link.work, link.final, 7, link.clock)
