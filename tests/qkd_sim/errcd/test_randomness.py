import numpy as np

from qkd_sim.errcd.randomness import (
    SeededRandomness,
    SystemRandomness,
    draw_below,
    draw_bits,
    subseed,
)


def test_the_same_seed_and_label_give_the_same_bytes() -> None:
    one, two = SeededRandomness(7, "a"), SeededRandomness(7, "a")
    assert [one.draw(5) for _ in range(3)] == [two.draw(5) for _ in range(3)]


def test_another_seed_or_label_gives_other_bytes_and_no_draw_repeats() -> None:
    streams = [SeededRandomness(7, "a"), SeededRandomness(8, "a"), SeededRandomness(7, "b")]
    draws = [stream.draw(16) for stream in streams for _ in range(4)]
    assert len(set(draws)) == len(draws)


def test_the_system_draws_as_many_bytes_as_asked_and_never_the_same() -> None:
    randomness = SystemRandomness()
    draws = {randomness.draw(16) for _ in range(10)}
    assert len(draws) == 10
    assert {len(draw) for draw in draws} == {16}


def test_drawn_bits_are_half_ones() -> None:
    bits = draw_bits(SeededRandomness(1, "bits"), 100_001)
    assert bits.shape == (100_001,)
    assert set(np.unique(bits)) == {0, 1}
    assert abs(bits.mean() - 0.5) < 4 * 0.5 / 100_001**0.5


def test_numbers_below_a_bound_are_equally_likely() -> None:
    randomness = SeededRandomness(2, "below")
    draws = np.bincount([draw_below(randomness, 5) for _ in range(5000)], minlength=5)
    assert draws.size == 5
    assert np.abs(draws - 1000).max() < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert draw_below(randomness, 1) == 0


def test_subseeds_differ_by_use_and_number() -> None:
    seeds = {int(subseed(b"s", use, i)) for use in ("pass", "subset") for i in range(4)}
    assert len(seeds) == 8
