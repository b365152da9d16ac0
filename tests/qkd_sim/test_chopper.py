import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import InputError
from kme.ids import Epoch
from photon_files import SET_A, SET_C, at, bb84_patterns, events, files_of, random_events
from qkd_sim.chopper import AdaptiveWidth, Chopped, Encoding, chop, log_line, sent_offsets
from qkd_sim.epochsplit import EpochEvents, SplitRules, split_epochs
from qkd_sim.events import Events
from qkd_sim.packets import Type2, Type3
from qkd_sim.protocols import PROTOCOLS, Protocol

KEEP_LAST = SplitRules(is_last_kept=True)
BB84 = Encoding()


def chopped(
    whole: Events, encoding: Encoding = BB84, rules: SplitRules = KEEP_LAST
) -> list[Chopped]:
    return list(chop(split_epochs([whole], rules), encoding))


def one_epoch(offsets: list[int], patterns: list[int] | int = 1) -> EpochEvents:
    return EpochEvents(Epoch(5), False, events([at(5, o) for o in offsets], patterns))  # noqa: FBT003


def test_set_a_is_chopped_byte_for_byte_as_the_c_program_does() -> None:
    found = chopped(Events.read(SET_A / "lec" / "events.raw"), rules=SplitRules())
    names = [each.type2.epoch.file_name for each in found]
    assert names == [path.name for path in files_of(SET_A / "lec" / "t2")]
    for each, name in zip(found, names, strict=True):
        assert each.type2.pack() == (SET_A / "lec" / "t2" / name).read_bytes()
        assert each.type3.pack() == (SET_A / "lec" / "t3" / name).read_bytes()
    lines = [log_line(each, 3, 4) for each in found]
    assert lines == (SET_A / "logs" / "chopper_V3.log").read_text().splitlines()


def set_c_events() -> Events:
    """Rebuild the events of set C from what the C program made of them."""
    parts = []
    for path in files_of(SET_C / "t2"):
        type2, type3 = Type2.read(path), Type3.read(SET_C / "t3" / path.name)
        times = type2.offsets_ticks + at(type2.epoch.number, 0)
        parts.append(Events(times, bb84_patterns(type2, type3)))
    return Events.concatenate(parts)


def test_set_c_is_chopped_byte_for_byte_with_the_width_that_adapts() -> None:
    whole = set_c_events()
    # the C program wrote its last epoch because the next one had begun
    after = (int(whole.times_ticks[-1]) >> 32) + 1
    whole = Events.concatenate([whole, events([at(after, 1)])])
    found = chopped(whole, Encoding(adaptive_filter=2), SplitRules())
    assert len({each.type2.width_bits for each in found}) == 4
    for each, path in zip(found, files_of(SET_C / "t2"), strict=True):
        assert each.type2.pack() == path.read_bytes()
        assert each.type3.pack() == (SET_C / "t3" / path.name).read_bytes()
    lines = [log_line(each, 3, 4) for each in found]
    assert lines == (SET_C / "logs" / "chopper_V3.log").read_text().splitlines()


@pytest.mark.parametrize("row", PROTOCOLS, ids=lambda row: row.name)
def test_what_is_told_and_kept_comes_from_the_patterns_entry_for_entry(row: Protocol) -> None:
    whole = random_events(row.number, 500, 3)
    width_bits = 32 - row.basis_bits
    for each in chopped(whole, Encoding(row.number, width_bits)):
        type2, type3 = Type2.unpack(each.type2.pack(), "2"), Type3.unpack(each.type3.pack(), "3")
        of_epoch = whole.part(whole.times_ticks >> 32 == type2.epoch.number)
        assert np.array_equal(type2.offsets_ticks, of_epoch.times_ticks & 0xFFFFFFFF)
        assert np.array_equal(type2.bases, row.bases[of_epoch.patterns])
        assert np.array_equal(type3.values, row.results[of_epoch.patterns])
        assert (type2.base_bits, type2.protocol) == (row.basis_bits, row.number)
        assert type3.bits_per_entry == row.result_bits
        assert np.array_equal(each.pattern_counts, np.bincount(of_epoch.patterns, minlength=16))


def by_hand(offsets: list[int]) -> list[tuple[int, int]]:
    """Return (index of the event, decoded time) as the C program's rules read, one by one."""
    told, previous, decoded = [], 0, 0
    for i, offset in enumerate(offsets):
        if offset <= previous:
            continue
        difference = offset - previous
        previous = offset
        decoded += difference + 2 if difference < 2 else difference
        told.append((i, decoded))
    return told


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 1 << 20)), min_size=1, max_size=60),
    width_bits=st.integers(4, 31),
)
def test_events_too_near_to_each_other_are_told_as_the_c_program_does(
    steps: list[int], width_bits: int
) -> None:
    offsets = np.cumsum(steps).tolist()
    patterns = [1 << i % 4 for i in range(len(offsets))]
    expected = by_hand(offsets)
    found = list(chop([one_epoch(offsets, patterns)], Encoding(width_bits=width_bits)))
    if not expected:
        assert found == []
        return
    type2 = Type2.unpack(found[0].type2.pack(), "2")
    assert type2.offsets_ticks.tolist() == [time for _, time in expected]
    kept = [patterns[i] for i, _ in expected]
    assert type2.bases.tolist() == [int(pattern in {2, 8}) for pattern in kept]
    assert found[0].type3.values.tolist() == [int(pattern in {4, 8}) for pattern in kept]
    assert found[0].n_ignored == len(steps) - len(expected)


def test_a_difference_of_one_tick_delays_what_comes_behind_it() -> None:
    assert sent_offsets(np.array([1, 2, 4, 1000])).tolist() == [3, 6, 8, 1004]


def test_times_far_from_each_other_stay_as_they_are() -> None:
    offsets = np.array([2, 4, 1000, (1 << 32) - 1])
    assert np.array_equal(sent_offsets(offsets), offsets)


def test_bits_that_are_not_detectors_are_not_told() -> None:
    plain = list(chop([one_epoch([5, 9], [2, 8])], Encoding(0)))
    marked = list(chop([one_epoch([5, 9], [2 | 16, 8 | 32 | 64])], Encoding(0)))
    assert plain[0].type2.pack() == marked[0].type2.pack()
    assert plain[0].type3.pack() == marked[0].type3.pack()


def test_an_epoch_that_cannot_be_told_gives_no_packets() -> None:
    whole = events([at(5, 0), at(5, 0), at(6, 4), at(7, 0)])
    assert [each.type2.epoch.number for each in chopped(whole)] == [6]
    assert chopped(Events.empty()) == []


@pytest.mark.parametrize(
    ("encoding", "rule"),
    [
        (Encoding(protocol=9), "there is no protocol 9"),
        (Encoding(width_bits=3), r"width is 3 bits; with protocol 1 it must be 4\.\.31"),
        (Encoding(protocol=0, width_bits=29), r"it must be 4\.\.28"),
        (Encoding(adaptive_filter=-1), "adaptive filter is -1"),
    ],
)
def test_an_encoding_that_cannot_be_is_refused(encoding: Encoding, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        list(chop([], encoding))


def test_the_width_settles_at_the_best_one_of_the_rule() -> None:
    # 100 000 events per second, 53 687 in an epoch
    width = AdaptiveWidth(8, 4, 31)
    for _ in range(60):
        width = width.after(53_687)
    assert width.bits == int(math.log2(2**32 / 53_687) + 2.2117) == 18


def test_the_width_stays_where_it_was_put_without_a_filter() -> None:
    assert AdaptiveWidth(17, 0, 31).after(1).after(10**9).bits == 17


@settings(max_examples=100)
@given(
    start=st.integers(4, 28),
    filter_constant=st.integers(1, 50),
    counts=st.lists(st.integers(1, 1 << 31), max_size=30),
)
def test_the_width_never_leaves_its_limits(
    start: int, filter_constant: int, counts: list[int]
) -> None:
    width = AdaptiveWidth(start, filter_constant, 28)
    for n_entries in counts:
        width = width.after(n_entries)
        assert 4 <= width.bits <= 28


def test_few_events_are_told_although_the_width_would_grow_beyond_a_word() -> None:
    whole = events([at(number, 1000) for number in range(12)])
    found = chopped(whole, Encoding(protocol=0, adaptive_filter=1))
    assert [each.type2.width_bits for each in found[1:]] == [28] * 11
    assert all(Type2.unpack(each.type2.pack(), "2").bases.size == 1 for each in found)


def test_each_level_of_the_log_has_its_line() -> None:
    each = chopped(events([at(5, 10 + i) for i in range(0, 50, 10)], [1, 3, 0, 8, 15]))[0]
    assert log_line(each, 0, 4) == "00000005"
    assert log_line(each, 1, 4) == "00000005\t5"
    assert log_line(each, 2, 4) == "epoch: 00000005\t entries: 5"
    assert log_line(each, 3, 4) == "epoch: 00000005, entries: 5, type2bits: 17"
    assert log_line(each, 4, 4) == "00000005\t4\t3\t2\t1\t2"
    assert log_line(each, 4, 6) == "00000005\t5\t1\t0\t0\t1\t1\t0"
