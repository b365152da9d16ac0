"""chain - all stages over one stretch of time: a scenario in, final key files of both sides out.

Every stage reads files and writes files, as its program does; each is given the
folders of its own side only, and what the protocol sends to it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np

from kme.epochs.qkde import Fact, StageReport
from kme.errors import KmeError, StageError
from kme.ids import Epoch
from kme.units import EPOCH_NS, TICKS_PER_NS
from qkd_sim import chopper, chopper2, costream, esim, getrate, pfind, splicer
from qkd_sim.epochsplit import EpochEvents, SplitRules, split_epochs
from qkd_sim.errors import InputError, StoppedError
from qkd_sim.events import read_chunks
from qkd_sim.packets import Type1, Type2, Type3, Type4
from qkd_sim.params import Scenario
from qkd_sim.parties import Parties
from qkd_sim.protocols import BB84
from qkd_sim.sifted import Summary

_Item = TypeVar("_Item")

PFIND_EPOCHS: Final = 4
WINDOW_TICKS: Final = 16
"""Half width of the coincidence window, 2 ns: wide enough for half a nanosecond of jitter."""

TRACKING_CONSTANT: Final = -200_000
"""The clock is followed with a time constant of 0.1 s."""

BLOCK_BITS: Final = 1 << 20
"""A block of sifted key is closed when it has so many bits: longer ones gain under 3 %."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side's folder of files.

    Parameters
    ----------
    root
        The folder.
    final
        Where its final keys go.
    """

    root: Path
    final: Path

    @property
    def events(self) -> Path:
        """Its raw events."""
        return self.root / "events.raw"

    def folder(self, name: str) -> Path:
        """Return one of its folders, making it if need be."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is to be simulated.

    Parameters
    ----------
    scenario
        Source, channels, detectors, clocks, and how long.
    start
        Universal epoch with whose beginning it begins.
    seed
        Of the simulation.
    protocol_seed
        Of what the two parties of `errcd` draw; None for real randomness.
    """

    scenario: Scenario
    start: Epoch
    seed: int
    protocol_seed: int | None = None

    @property
    def start_time_ns(self) -> int:
        """Its beginning, in nanoseconds since 1970."""
        return self.start.number * EPOCH_NS


class _TimeOf:
    """A clock that stands still at the time of a recording."""

    def __init__(self, unix_s: float) -> None:
        self._unix_s = unix_s

    @classmethod
    def stretch(cls, stretch: Stretch) -> Self:
        """Return the time at which a stretch begins."""
        return cls(stretch.start_time_ns / 1e9)

    def now_s(self) -> float:
        """Return that time."""
        return self._unix_s

    def monotonic_s(self) -> float:
        """Return that time."""
        return self._unix_s

    async def sleep(self, duration_s: float) -> None:
        """Refuse to wait: nothing would change."""
        raise NotImplementedError


class Chain:
    """All stages, one after another.

    Parameters
    ----------
    hec, lec
        The folders of both sides.
    report
        Told what each stage did.
    is_stopped
        Asked every moment whether to break off; stages don't wait for their end.
    """

    def __init__(
        self,
        hec: Side,
        lec: Side,
        report: Callable[[StageReport], None],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hec = hec
        self._lec = lec
        self._report = report
        self._is_stopped = is_stopped

    def run(self, stretch: Stretch) -> None:
        """Go from photon pairs to final keys.

        Raises
        ------
        StageError
            If a stage cannot do its work: which one, why, and what to try.
        StoppedError
            If it was asked to stop.
        """
        self._esim(stretch)
        self._choppers(stretch)
        self._getrate()
        offset = self._pfind()
        blocks = self._costream(offset)
        self._splicer()
        with self._stage("errcd") as facts:
            parties = Parties(self._hec, self._lec, stretch.protocol_seed)
            facts.update(parties.reconcile(blocks, self._is_stopped))

    @contextmanager
    def _stage(self, name: str) -> Iterator[dict[str, Fact]]:
        """Time a stage; report its facts, or name it in its error."""
        facts: dict[str, Fact] = {}
        started_s = time.monotonic()
        try:
            self._look()
            yield facts
        except (StageError, StoppedError):
            raise
        except KmeError as error:
            raise StageError(name, str(error)) from error
        except OSError as error:
            raise StageError(name, f"{error.filename or 'file'}: {error.strerror}") from error
        self._report(StageReport(name, time.monotonic() - started_s, facts))

    def _look(self) -> None:
        """Break off if asked to."""
        if self._is_stopped():
            raise StoppedError("stopped in the middle of a stretch; it gives no key")

    def _unless_stopped(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Pass items on until asked to stop."""
        for item in items:
            self._look()
            yield item

    def _esim(self, stretch: Stretch) -> None:
        with self._stage("esim") as facts:
            for side in (self._hec, self._lec):
                side.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            chunks = esim.simulate_chunks(stretch.scenario, stretch.start_time_ns, stretch.seed)
            facts["hec_events"], facts["lec_events"] = esim.write_events(
                self._unless_stopped(chunks), self._hec.events, self._lec.events
            )
            facts["simulated_s"] = stretch.scenario.run.duration_s

    def _choppers(self, stretch: Stretch) -> None:
        with self._stage("chopper2") as facts:
            folder = self._hec.folder("t1")
            n_epochs = 0
            for packaged in chopper2.package(self._epochs(self._hec, stretch)):
                packaged.type1.write(folder)
                n_epochs += 1
            facts["epochs"] = n_epochs
        with self._stage("chopper") as facts:
            times, results = self._lec.folder("t2"), self._lec.folder("t3")
            encoding = chopper.Encoding(BB84, adaptive_filter=5)
            n_epochs = 0
            for chopped in chopper.chop(self._epochs(self._lec, stretch), encoding):
                chopped.type2.write(times)
                chopped.type3.write(results)
                n_epochs += 1
            facts["epochs"] = n_epochs

    def _epochs(self, side: Side, stretch: Stretch) -> Iterator[EpochEvents]:
        """Cut one side's raw events into epochs."""
        rules = SplitRules(clock=_TimeOf.stretch(stretch))
        with side.events.open("rb") as stream:
            epochs = split_epochs(read_chunks(stream, side.events), rules, side.events)
            yield from self._unless_stopped(epochs)

    def _getrate(self) -> None:
        with self._stage("getrate") as facts:
            for name, side in (("hec", self._hec), ("lec", self._lec)):
                with side.events.open("rb") as stream:
                    counts = list(getrate.count_windows(read_chunks(stream, side.events)))
                if not counts:
                    raise InputError(
                        f"{side.events}: less than an epoch of events; simulate longer"
                    )
                per_window = float(np.sum(counts) / len(counts))
                seconds = getrate.DEFAULT_WINDOW_TICKS / TICKS_PER_NS / 1e9
                facts[f"{name}_rate_hz"] = round(per_window / seconds, 1)

    def _common_epochs(self) -> list[Epoch]:
        """Return the epochs that both sides have packets of, in order."""
        names = {path.name for path in self._hec.folder("t1").iterdir()}
        names &= {path.name for path in self._lec.folder("t2").iterdir()}
        epochs = sorted(Epoch.from_file_name(name) for name in names)
        if not epochs:
            raise InputError("the two sides share no whole epoch; simulate longer")
        return epochs

    def _pfind(self) -> int:
        with self._stage("pfind") as facts:
            epochs = self._common_epochs()[:PFIND_EPOCHS]
            found = pfind.find_offset(
                [Type1.read(self._hec.folder("t1") / epoch.file_name) for epoch in epochs],
                [Type2.read(self._lec.folder("t2") / epoch.file_name) for epoch in epochs],
            )
            facts["offset_ns"] = round(found.start_ticks / TICKS_PER_NS, 3)
            facts["drift_ppb"] = round(found.drift * 1e9, 2)
            facts["log10_p_value"] = round(found.log10_p, 1)
            facts["sigma"] = round(found.sigma, 1)
        return found.offset_ticks

    def _costream(self, offset_ticks: int) -> list[tuple[Epoch, int]]:
        """Sift, and return the blocks of epochs that errcd is to work on."""
        with self._stage("costream") as facts:
            settings = costream.CostreamSettings(
                offset_ticks,
                window_ticks=WINDOW_TICKS,
                tracking_window_ticks=2 * WINDOW_TICKS,
                tracking_constant=TRACKING_CONSTANT,
                width_filter=5,
            )
            epochs = self._common_epochs()
            hec = (Type1.read(self._hec.folder("t1") / epoch.file_name) for epoch in epochs)
            lec = (Type2.read(self._lec.folder("t2") / epoch.file_name) for epoch in epochs)
            summary = Summary()
            blocks = _Blocks()
            for sifted in self._unless_stopped(costream.sift(hec, lec, settings)):
                sifted.indices.write(self._hec.folder("t4"))
                sifted.key.write(self._hec.folder("rawkey"))
                summary.add(sifted)
                blocks.add(sifted.epoch, sifted.n_kept)
            facts["coincidences"] = summary.n_coincidences
            facts["accidentals"] = summary.n_accidentals
            facts["sifted_bits"] = summary.n_sifted_bits
            facts["tracked_shift_ns"] = summary.shift_ticks / TICKS_PER_NS
            if not summary.n_sifted_bits:
                raise InputError("no coincidence was kept; is the offset right?")
        return blocks.closed()

    def _splicer(self) -> None:
        with self._stage("splicer") as facts:
            n_bits = 0
            for path in self._unless_stopped(sorted(self._hec.folder("t4").iterdir())):
                results = Type3.read(self._lec.folder("t3") / path.name)
                spliced = splicer.splice(results, Type4.read(path), BB84)
                spliced.key.write(self._lec.folder("rawkey"))
                n_bits += int(spliced.key.values.size)
            facts["sifted_bits"] = n_bits


class _Blocks:
    """Runs of epochs that have enough sifted key together."""

    def __init__(self) -> None:
        self._blocks: list[tuple[list[Epoch], int]] = []

    def add(self, epoch: Epoch, n_bits: int) -> None:
        """Count one more epoch's sifted key."""
        if not self._blocks or self._blocks[-1][1] >= BLOCK_BITS:
            self._blocks.append(([], 0))
        epochs, so_far = self._blocks[-1]
        self._blocks[-1] = ([*epochs, epoch], so_far + n_bits)

    def closed(self) -> list[tuple[Epoch, int]]:
        """Return first epoch and number of epochs of each; a short last one joins its neighbour."""
        blocks = self._blocks
        if len(blocks) > 1 and blocks[-1][1] < BLOCK_BITS // 2:
            (epochs, n_bits), (more, n_more) = blocks[-2:]
            blocks = [*blocks[:-2], (epochs + more, n_bits + n_more)]
        return [(epochs[0], epochs[-1].number - epochs[0].number + 1) for epochs, _ in blocks]


def whole_epochs(scenario: Scenario) -> int:
    """Return how many epochs a stretch of this scenario lasts, the broken one included."""
    return -(-int(scenario.run.duration_s * 1e9) // EPOCH_NS) + 1
