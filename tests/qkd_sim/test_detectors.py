import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_sim.detectors import (
    containing_counts,
    count_patterns,
    exact_counts,
    log_columns,
    n_clicks,
)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_counts_by_detector_are_those_of_a_loop_over_events(patterns: list[int]) -> None:
    counts = count_patterns(np.array(patterns, np.uint8))
    lines = [pattern & 15 for pattern in patterns]
    masks = [1, 2, 4, 8, 3, 6, 12, 9]
    assert counts.sum() == len(patterns)
    assert n_clicks(counts) == sum(line != 0 for line in lines)
    for n_detectors in (4, 6, 8):
        exact = [lines.count(mask) for mask in masks[:n_detectors]]
        containing = [sum(line & mask == mask for line in lines) for mask in masks[:n_detectors]]
        assert exact_counts(counts, n_detectors) == exact
        assert containing_counts(counts, n_detectors) == containing
    assert log_columns(counts, 4) == [n_clicks(counts), *containing_counts(counts, 4)]
    assert log_columns(counts, 6) == [len(patterns), *exact_counts(counts, 6)]
