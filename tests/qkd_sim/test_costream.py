from dataclasses import replace

import numpy as np
import pytest

from kme.errors import InputError
from kme.ids import Epoch
from photon_chain import as_events, chopped, shifted
from photon_files import SET_A, files_of
from qkd_sim.costream import CostreamSettings, SiftedEpoch, sift
from qkd_sim.events import Events
from qkd_sim.packets import Type1, Type2
from qkd_sim.sifted import log_line

EPOCH_TICKS = 1 << 32
SET_A_SETTINGS = CostreamSettings(
    offset_ticks=8,
    window_ticks=16,
    tracking_window_ticks=30,
    tracking_constant=-2_000_000,
    width_filter=5,
)


def set_a() -> tuple[list[Type1], list[Type2]]:
    """Return set A's packets: of the high side one more than of the low side."""
    hec = [Type1.read(path) for path in files_of(SET_A / "hec" / "t1")[1:]]
    lec = [Type2.read(path) for path in files_of(SET_A / "lec" / "t2")[1:17]]
    return hec, lec


def pairs(
    hec: list[tuple[int, int]], lec: list[tuple[int, int]], settings: CostreamSettings
) -> list[SiftedEpoch]:
    """Sift events given as (offset in epoch 100, pattern)."""
    sides = (
        Events(
            np.array([100 * EPOCH_TICKS + offset for offset, _ in side], np.int64),
            np.array([pattern for _, pattern in side], np.uint8),
        )
        for side in (hec, lec)
    )
    packets = chopped(*sides)
    return list(sift(packets.hec, packets.lec, settings))


def test_set_a_gives_the_c_program_s_files_and_log_byte_for_byte() -> None:
    sifted = list(sift(*set_a(), SET_A_SETTINGS))
    for folder, packets in (
        ("t4", [epoch.indices for epoch in sifted]),
        ("rawkey", [epoch.key for epoch in sifted]),
    ):
        paths = files_of(SET_A / "hec" / folder)
        assert [path.name for path in paths] == [str(packet.epoch) for packet in packets]
        for path, packet in zip(paths, packets, strict=True):
            assert packet.pack() == path.read_bytes()
    log = "".join(log_line(epoch, 5) + "\n" for epoch in sifted)
    assert log == (SET_A / "logs" / "costream_V5.log").read_text()


def test_set_a_shifted_gives_the_same_coincidences() -> None:
    hec, lec = (Events.read(SET_A / side / "events.raw") for side in ("hec", "lec"))
    expected = [epoch.key.values.tolist() for epoch in sift(*set_a(), SET_A_SETTINGS)]
    for shift in (-399_999, 123_457):
        packets = chopped(hec, shifted(lec, shift), is_last_kept=False)
        settings = replace(SET_A_SETTINGS, offset_ticks=8 + shift)
        found = [epoch.key.values for epoch in sift(packets.hec[1:], packets.lec[1:], settings)]
        # an epoch's border falls between other events, and the first ones have no partner
        joined, whole = np.concatenate(found), np.concatenate(expected)
        n_common = min(joined.size, whole.size) - 10
        assert any(
            np.array_equal(joined[first : first + n_common], whole[other : other + n_common])
            for first in range(5)
            for other in range(5)
        )


def test_only_single_clicks_in_the_same_basis_are_kept() -> None:
    patterns = [(high, low) for high in range(1, 16) for low in (1, 2, 4, 8)]
    hec = [(1000 + 1000 * k, high) for k, (high, _) in enumerate(patterns)]
    lec = [(1000 + 1000 * k, low) for k, (_, low) in enumerate(patterns)]
    (epoch,) = pairs(hec, lec, CostreamSettings(0))
    bit = {1: 1, 4: 0, 2: 1, 8: 0}
    expected = [
        (k, bit[high])
        for k, (high, low) in enumerate(patterns)
        if high in bit and (high in {1, 4}) == (low in {1, 4})
    ]
    assert epoch.indices.indices.tolist() == [k for k, _ in expected]
    assert epoch.key.values.tolist() == [value for _, value in expected]
    assert epoch.n_coincidences == len(patterns)


def test_bell_tests_are_kept_apart_from_key() -> None:
    events = [(1000, 1), (2000, 3), (3000, 8), (4000, 6), (5000, 5)]
    lec = Type2(Epoch(100), np.arange(1000, 6000, 1000), np.ones(5, np.uint8), 17, 1, protocol=4)
    hec = chopped(
        Events(
            np.array([100 * EPOCH_TICKS + t for t, _ in events]),
            np.array([p for _, p in events], np.uint8),
        ),
        as_events(np.array([100 * EPOCH_TICKS + 5])),
    ).hec
    (epoch,) = sift(hec, [lec], CostreamSettings(0, protocol=4))
    assert epoch.tests is not None
    assert epoch.key.values.tolist() == [0, 1]
    assert epoch.tests.values.tolist() == [0, 3]
    assert epoch.indices.data.tolist() == [0, 4, 3, 4]
    assert epoch.n_kept == 4


def test_skews_move_the_detectors_of_the_high_side() -> None:
    hec = [(1000, 1), (2000, 2), (3000, 4), (4000, 8)]
    lec = [(1100, 4), (2200, 8), (3300, 1), (4400, 2)]
    (plain,) = pairs(hec, lec, CostreamSettings(0))
    assert plain.n_coincidences == 0
    (moved,) = pairs(hec, lec, CostreamSettings(0, skews_ticks=(100, 200, 300, 400)))
    assert moved.key.values.tolist() == [1, 1, 0, 0]


def test_an_epoch_without_coincidences_has_empty_packets_and_keeps_the_width() -> None:
    settings = CostreamSettings(0, width_filter=1)
    (epoch,) = pairs([(1000, 1)], [(50_000, 1)], settings)
    assert epoch.n_kept == 0
    assert epoch.key.values.size == 0
    assert epoch.next_width_bits == 8


def test_a_coincidence_may_lie_across_the_border_of_epochs() -> None:
    border = 101 * EPOCH_TICKS
    hec = as_events(np.array([border - 100_000, border - 50, border + 100_000]))
    lec = as_events(np.array([border - 100_000, border - 50, border + 100_000]) + 80)
    packets = chopped(hec, lec)
    found = list(sift(packets.hec, packets.lec, CostreamSettings(80)))
    assert [epoch.n_coincidences for epoch in found] == [1, 2]
    back = chopped(lec, hec)
    found = list(sift(back.hec, back.lec, CostreamSettings(-80)))
    assert [epoch.n_coincidences for epoch in found] == [2, 1]


def test_epochs_go_on_across_the_wrap_of_their_number() -> None:
    first = (1 << 17) - 1
    ticks = first * EPOCH_TICKS + np.arange(1000, 2 * EPOCH_TICKS, EPOCH_TICKS // 50)
    packets = chopped(as_events(ticks), as_events(ticks))
    found = list(sift(packets.hec, packets.lec, CostreamSettings(0)))
    assert [epoch.epoch for epoch in found] == [Epoch(first), Epoch(0)]
    assert sum(epoch.n_coincidences for epoch in found) == ticks.size


@pytest.mark.parametrize("side", ["hec", "lec"])
def test_a_missing_epoch_is_an_error_unless_gaps_are_allowed(side: str) -> None:
    hec, lec = set_a()
    del (hec if side == "hec" else lec)[5]
    kind = "type-1" if side == "hec" else "type-2"
    with pytest.raises(InputError, match=f"{kind} packet of epoch 00004f8d follows that of 0"):
        list(sift(hec, lec, SET_A_SETTINGS))
    tolerant = replace(SET_A_SETTINGS, allows_gaps=True)
    found = list(sift(hec, lec, tolerant))
    n_coincidences = {str(epoch.epoch): epoch.n_coincidences for epoch in found}
    assert n_coincidences["00004f8b"] == 529
    assert n_coincidences["00004f8d"] == 560
    assert n_coincidences.get("00004f8c", 0) <= 1


def test_an_epoch_that_comes_twice_is_an_error() -> None:
    hec, lec = set_a()
    with pytest.raises(InputError, match="00004f87 follows that of 00004f87: no step forward"):
        list(sift(hec, [lec[0], lec[0]], replace(SET_A_SETTINGS, allows_gaps=True)))


def test_the_high_side_may_end_with_the_low_side_but_not_before() -> None:
    hec, lec = set_a()
    whole = [epoch.key.pack() for epoch in sift(hec, lec, SET_A_SETTINGS)]
    ends_together = sift(hec[:16], lec, SET_A_SETTINGS)
    assert [epoch.key.pack() for epoch in ends_together] == whole
    with pytest.raises(InputError, match="the type-1 packets end before epoch 00004f96"):
        list(sift(hec[:15], lec, SET_A_SETTINGS))
    with pytest.raises(InputError, match="the type-1 packets end before epoch 00004f88"):
        list(sift([], lec[1:], SET_A_SETTINGS))


def test_a_packet_of_another_protocol_is_an_error() -> None:
    hec, lec = set_a()
    with pytest.raises(InputError, match="epoch 00004f87 is of protocol 1, not 0"):
        list(sift(hec, lec, replace(SET_A_SETTINGS, protocol=0)))
    wide = replace(lec[0], base_bits=2)
    with pytest.raises(InputError, match="type-2 packet of epoch 00004f87: wrong number"):
        list(sift(hec, [wide], SET_A_SETTINGS))
    with pytest.raises(InputError, match=r"protocol 2 .* defines no sifting"):
        list(sift(hec, lec, replace(SET_A_SETTINGS, protocol=2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_ticks": 0}, "window is 0, must be in 1.."),
        ({"tracking_window_ticks": 1 << 25}, "tracking window is 33554432"),
        ({"offset_ticks": 1 << 50}, "offset is"),
        ({"tracking_constant": -(1 << 40)}, "tracking constant is"),
        ({"width_filter": -1}, "width filter is -1"),
        ({"skews_ticks": (0, 0, 1 << 30, 0)}, "skew is"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SET_A_SETTINGS, **changes)  # type: ignore[arg-type]


def test_tracking_settings_are_translated_as_the_c_program_does() -> None:
    by_pairs = replace(SET_A_SETTINGS, tracking_constant=1000).windows
    assert (by_pairs.gain, by_pairs.divisor) == (4, 0)
    by_time = SET_A_SETTINGS.windows
    assert (by_time.gain, by_time.divisor) == (0, 3_906_250)
    assert by_time.max_gap_ticks == 800_000_000
    short = replace(SET_A_SETTINGS, tracking_constant=-10).windows
    assert (short.divisor, short.max_gap_ticks) == (19, 80_000)
    never = replace(SET_A_SETTINGS, tracking_constant=0).windows
    assert (never.gain, never.divisor) == (0, 0)
