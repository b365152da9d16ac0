from collections.abc import Iterator

from photon_files import SET_A, files_of
from qkd_sim.costream import CostreamSettings, sift
from qkd_sim.packets import Type1, Type2
from qkd_sim.sifted import SiftedEpoch, Summary, log_line, summary_line


def set_a() -> Iterator[SiftedEpoch]:
    """Sift set A."""
    hec = (Type1.read(path) for path in files_of(SET_A / "hec" / "t1")[1:])
    lec = (Type2.read(path) for path in files_of(SET_A / "lec" / "t2")[1:17])
    return sift(hec, lec, CostreamSettings(offset_ticks=8, width_filter=5))


def test_totals_are_those_of_the_epochs() -> None:
    summary = Summary()
    for epoch in set_a():
        summary.add(epoch)
    assert summary == Summary(
        n_epochs=16,
        n_lec_events=8642,
        n_coincidences=8642,
        n_accidentals=0,
        n_sifted_bits=4311,
        shift_ticks=0,
    )
    assert summary_line(summary) == (
        "epochs: 16, type-2 events: 8642, coincidences: 8642, accidental: 0,"
        " sifted bits: 4311, tracked shift: 0 ticks"
    )


def test_log_lines_tell_more_at_each_level() -> None:
    epoch = next(set_a())
    assert log_line(epoch, 0) == "00004f87"
    assert log_line(epoch, 1) == "00004f87\t294"
    assert log_line(epoch, 2) == "epoch: 00004f87, kept: 294"
    assert log_line(epoch, 3).startswith("epoch: 00004f87, type-2 events: 575, kept: 294")
    assert len(log_line(epoch, 4)) > len(log_line(epoch, 3)) > len(log_line(epoch, 2))
