"""sifted - what one epoch's coincidences gave, what all gave, and how a log tells it."""

from dataclasses import dataclass

from kme.ids import Epoch
from qkd_sim.packets import Type3, Type4

__all__ = ["SiftedEpoch", "Summary", "log_line", "summary_line"]


@dataclass(frozen=True, eq=False)
class SiftedEpoch:
    """What one epoch's coincidences gave.

    Parameters
    ----------
    indices
        Which of the low-count side's events were kept; goes there.
    key
        Sifted key of the high-count side; stays.
    tests
        Test events of Bell protocols; stays.
    n_lec_events, n_hec_events
        Events of the type-2 packet, and of the type-1 packet read last.
    n_coincidences, n_accidentals
        Pairs within the window, of any basis, and within two windows far from it.
    shift_ticks
        How far the clock was followed since the start.
    next_width_bits
        Width of indices in the next packet.
    """

    indices: Type4
    key: Type3
    tests: Type3 | None
    n_lec_events: int
    n_hec_events: int
    n_coincidences: int
    n_accidentals: int
    shift_ticks: int
    next_width_bits: int

    @property
    def epoch(self) -> Epoch:
        """Which epoch."""
        return self.indices.epoch

    @property
    def n_kept(self) -> int:
        """How many of the low-count side's events were kept."""
        return int(self.indices.indices.size)


@dataclass(slots=True)
class Summary:
    """Totals over epochs."""

    n_epochs: int = 0
    n_lec_events: int = 0
    n_coincidences: int = 0
    n_accidentals: int = 0
    n_sifted_bits: int = 0
    shift_ticks: int = 0

    def add(self, epoch: SiftedEpoch) -> None:
        """Count one more epoch."""
        self.n_epochs += 1
        self.n_lec_events += epoch.n_lec_events
        self.n_coincidences += epoch.n_coincidences
        self.n_accidentals += epoch.n_accidentals
        self.n_sifted_bits += int(epoch.key.values.size) * epoch.key.bits_per_entry
        self.shift_ticks = epoch.shift_ticks


def log_line(sifted: SiftedEpoch, verbosity: int) -> str:
    """Describe an epoch as the C program's ``-V`` does.

    Parameters
    ----------
    sifted
        The epoch.
    verbosity
        0: epoch; 1: and number of events kept; 2 to 4: in words; 5: numbers, in
        this order: events of type 2, kept, next width of an index, tracked shift
        in ticks, accidentals, coincidences, events of type 1.
    """
    epoch, n_kept = sifted.epoch, sifted.n_kept
    if verbosity == 0:
        return f"{epoch}"
    if verbosity == 1:
        return f"{epoch}\t{n_kept}"
    if verbosity == 2:
        return f"epoch: {epoch}, kept: {n_kept}"
    numbers = (
        sifted.n_lec_events,
        n_kept,
        sifted.next_width_bits,
        sifted.shift_ticks,
        sifted.n_accidentals,
        sifted.n_coincidences,
        sifted.n_hec_events,
    )
    if verbosity < 5:
        names = (
            "type-2 events",
            "kept",
            "next width",
            "shift",
            "accidental",
            "true",
            "type-1 events",
        )
        shown = zip(names[: verbosity + 1], numbers, strict=False)
        return f"epoch: {epoch}, " + ", ".join(f"{name}: {number}" for name, number in shown)
    return "\t".join([f"{epoch}", *map(str, numbers)])


def summary_line(summary: Summary) -> str:
    """Describe the totals in one line."""
    return (
        f"epochs: {summary.n_epochs}, type-2 events: {summary.n_lec_events},"
        f" coincidences: {summary.n_coincidences}, accidental: {summary.n_accidentals},"
        f" sifted bits: {summary.n_sifted_bits}, tracked shift: {summary.shift_ticks} ticks"
    )
