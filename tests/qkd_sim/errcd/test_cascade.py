import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from errcd_parties import Reconciliation, noisy_pair, random_bits, reconcile
from qkd_sim.errcd.answerer import Answerer
from qkd_sim.errcd.cascade import (
    MAX_PASSES,
    MAX_SUBSETS,
    VARIANTS,
    block_ends,
    order_of_pass,
    subset_words,
)
from qkd_sim.errcd.corrector import Corrector
from qkd_sim.errcd.messages import (
    FIRST_SUBSET,
    Branches,
    CheckRequest,
    Goodbye,
    Message,
    Parities,
    PassRequest,
    WaveRequest,
)
from qkd_sim.errors import ChannelError

SEED = bytes(range(32))


def error_pattern(kind: str, n: int, qber: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    errors = np.zeros(n, np.uint8)
    n_errors = round(qber * n)
    if kind == "independent":
        errors[rng.random(n) < qber] = 1
    elif kind == "burst":
        start = int(rng.integers(0, max(1, n - 2 * n_errors)))
        errors[start : start + 2 * n_errors] = rng.integers(
            0, 2, errors[start : start + 2 * n_errors].size
        )
    elif kind == "run":
        errors[:n_errors] = 1
    elif kind == "comb":
        errors[:: max(1, round(1 / max(qber, 1e-9)))] = qber > 0
    return errors


@settings(deadline=None, max_examples=120)
@given(
    n=st.integers(1, 3000),
    qber=st.floats(0, 0.11),
    kind=st.sampled_from(["independent", "burst", "run", "comb"]),
    variant=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 1 << 32),
)
def test_any_error_pattern_up_to_11_per_cent_is_corrected(
    n: int, qber: float, kind: str, variant: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    alice = random_bits(rng, n)
    bob = alice ^ error_pattern(kind, n, qber, rng)
    done = reconcile(alice, bob, rng.bytes(32), qber=max(qber, 1e-3), variant=variant)
    assert done.is_equal


@pytest.mark.parametrize("n", [64, 65, 127, 1000, 4097, 19_999, 20_000])
@pytest.mark.parametrize("qber", [0.0, 0.01, 0.05, 0.11])
def test_all_sizes_are_corrected_whatever_the_expected_error_rate(n: int, qber: float) -> None:
    rng = np.random.default_rng(n)
    for factor in (0.1, 0.5, 1.0, 2.0, 10.0):
        alice, bob = noisy_pair(rng, n, qber)
        expected = min(max(qber, 1e-4) * factor, 0.49)
        assert reconcile(alice, bob, rng.bytes(32), qber=expected).is_equal


def test_errors_beyond_all_expectation_are_corrected_too() -> None:
    rng = np.random.default_rng(11)
    for qber in (0.3, 0.5, 1.0):
        alice, bob = noisy_pair(rng, 800, qber)
        assert reconcile(alice, bob, rng.bytes(32), qber=0.02).is_equal


def test_a_key_without_errors_discloses_the_first_parities_and_the_checks_only() -> None:
    alice = random_bits(np.random.default_rng(12), 10_000)
    done = reconcile(alice, alice.copy(), SEED, qber=0.01)
    assert done.is_equal
    # blocks of 64 bits, then of 256 of which the last one follows; 20 checks
    first = VARIANTS["plain"].first_block_bits(0.01)
    assert done.disclosed_bits == -(-10_000 // first) + -(-10_000 // (4 * first)) - 1 + 20


def efficiencies(variant: str, qber: float, n_frames: int) -> tuple[float, float]:
    """Return mean and standard error of f over frames of 1e5 bits."""
    rng = np.random.default_rng(round(1000 * qber))
    runs: list[Reconciliation] = []
    for _ in range(n_frames):
        alice, bob = noisy_pair(rng, 100_000, qber)
        runs.append(reconcile(alice, bob, rng.bytes(32), qber=qber, variant=variant))
    assert all(run.is_equal for run in runs)
    values = np.array([run.efficiency for run in runs])
    return float(values.mean()), float(values.std(ddof=1) / n_frames**0.5)


PUBLISHED_PLAIN = {0.01: 1.027, 0.02: 1.031, 0.03: 1.036, 0.05: 1.043, 0.08: 1.054, 0.11: 1.069}


@pytest.mark.parametrize("qber", PUBLISHED_PLAIN)
def test_plain_discloses_as_little_as_its_efficiency_curve_says(qber: float) -> None:
    mean, error = efficiencies("plain", qber, 8)
    assert mean + 4 * error < 1.10
    assert abs(mean - PUBLISHED_PLAIN[qber]) < 4 * error + 0.001


@pytest.mark.parametrize("qber", [0.01, 0.04, 0.06, 0.07, 0.09, 0.10, 0.11])
def test_fast_discloses_less_than_a_tenth_above_the_limit(qber: float) -> None:
    mean, error = efficiencies("fast", qber, 5)
    assert 1.0 < mean + 4 * error < 1.10


def test_blocks_double_when_the_error_rate_halves() -> None:
    for variant in VARIANTS.values():
        sizes = [variant.first_block_bits(0.4 / 2**i) for i in range(8)]
        assert [b / a for a, b in itertools.pairwise(sizes)] == [2.0] * 7
        assert variant.first_block_bits(0.0) >= variant.first_block_bits(1e-6)
        assert variant.first_block_bits(0.5) >= 2


@pytest.mark.parametrize(("n", "block"), [(1, 2), (10, 5), (11, 5), (5, 100)])
def test_blocks_end_where_the_key_ends(n: int, block: int) -> None:
    ends = block_ends(n, block).tolist()
    assert ends[-1] == n
    assert ends[:-1] == list(range(block, n, block))


def test_orders_and_subsets_come_from_the_seed_and_their_number() -> None:
    first = order_of_pass(1000, SEED, 0)
    assert first.tolist() == order_of_pass(1000, SEED, 0).tolist()
    assert first.tolist() != order_of_pass(1000, SEED, 1).tolist()
    assert first.tolist() != order_of_pass(1000, SEED[::-1], 0).tolist()
    subset = subset_words(20, SEED, 3)
    assert subset.tolist() == subset_words(20, SEED, 3).tolist()
    assert subset.tolist() != subset_words(20, SEED, 4).tolist()


# -- a peer that doesn't keep the rules


def answerer(n: int = 500) -> Answerer:
    return Answerer(random_bits(np.random.default_rng(1), n), SEED)


def intervals(*pairs: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(pairs, np.int64)


@pytest.mark.parametrize(
    "question",
    [
        PassRequest(1, 16),
        PassRequest(0, 1),
        PassRequest(0, 501),
        WaveRequest(0, intervals((0, 8))),
        WaveRequest(FIRST_SUBSET, intervals((0, 8))),
        Branches(np.ones(1, np.uint8)),
        CheckRequest(0),
        CheckRequest(MAX_SUBSETS + 1),
        Goodbye(),
    ],
)
def test_alice_answers_no_question_about_what_does_not_exist(question: Message) -> None:
    with pytest.raises(ChannelError):
        answerer().answer(question)


def test_alice_answers_nothing_behind_the_end_of_her_key() -> None:
    alice = answerer()
    alice.answer(PassRequest(0, 16))
    alice.answer(WaveRequest(0, intervals((480, 500))))
    with pytest.raises(ChannelError, match="behind bit 500"):
        alice.answer(WaveRequest(0, intervals((480, 501))))


def test_alice_wants_one_branch_for_each_interval() -> None:
    alice = answerer()
    alice.answer(PassRequest(0, 16))
    alice.answer(WaveRequest(0, intervals((0, 8), (16, 24))))
    with pytest.raises(ChannelError, match="3 branches for 2"):
        alice.answer(Branches(np.ones(3, np.uint8)))


def test_alice_does_not_bisect_single_bits() -> None:
    alice = answerer()
    alice.answer(PassRequest(0, 16))
    alice.answer(WaveRequest(0, intervals((0, 2))))
    with pytest.raises(ChannelError, match="no interval is left"):
        alice.answer(Branches(np.ones(1, np.uint8)))


def test_alice_stops_when_more_is_asked_than_the_key_has() -> None:
    alice = answerer()
    alice.answer(PassRequest(0, 2))
    wave = intervals(*((i, i + 2) for i in range(0, 500, 2)))

    def ask_on() -> None:
        for _ in range(100):
            alice.answer(WaveRequest(0, wave))

    with pytest.raises(ChannelError, match="more parities"):
        ask_on()
    assert alice.disclosed_bits < 10 * 500


def test_alice_starts_only_so_many_passes() -> None:
    alice = answerer()
    for number in range(MAX_PASSES):
        alice.answer(PassRequest(number, 500))
    with pytest.raises(ChannelError):
        alice.answer(PassRequest(MAX_PASSES, 500))


@pytest.mark.parametrize("n", [1, 64, 1000])
@pytest.mark.parametrize("lie", ["random", "short", "long", "other"])
def test_bob_gives_up_or_ends_when_answers_are_lies(n: int, lie: str) -> None:
    rng = np.random.default_rng(7)
    alice, bob = noisy_pair(rng, n, 0.05)
    honest = Answerer(alice, SEED)

    def ask(question: Message) -> Message:
        bits = honest.answer(question).bits
        if lie == "random":
            return Parities(random_bits(rng, bits.size))
        if lie == "short":
            return Parities(bits[:-1] if bits.size else np.ones(1, np.uint8))
        if lie == "long":
            return Parities(np.append(bits, np.uint8(0)))
        return Branches(bits)

    corrector = Corrector(bob, SEED, ask)

    def reconcile_on() -> None:
        for _ in range(50):  # by chance, lies may agree with each other for a while
            corrector.reconcile(0.05, VARIANTS["plain"], 20)

    with pytest.raises(ChannelError):
        reconcile_on()
