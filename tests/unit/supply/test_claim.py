import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kme.errors import IntegrityError
from kme.store.records import Claim, GranuleRange
from kme.supply.cache import OpenBlock
from kme.supply.claim import (
    MAX_STEP_GRANULES,
    MIN_STEP_GRANULES,
    OpenClaim,
    Step,
    fresh_worker_name,
)
from kme.supply.key_id import IdScope, is_made_for
from kme.units import granules_of_bytes
from simulation import VirtualClock
from supply_pair import ALICE, BOB, A, B, key_block

SCOPE = IdScope.on_link((ALICE, A), (BOB, B)).encoded()
BLOCK = key_block(number=3, n_bytes=1024)


def _claim(start: int, stop: int) -> Claim:
    return Claim("0" * 32, "worker-1", GranuleRange(3, start, stop))


@given(st.lists(st.integers(1, 300), max_size=12), st.integers(8, 100))
def test_keys_are_cut_one_after_another_from_the_blocks_bytes(sizes: list[int], start: int) -> None:
    opened = OpenBlock.of(BLOCK)
    claim = OpenClaim(_claim(start, 128), opened)
    expected = start
    for n_bytes in sizes:
        if granules_of_bytes(n_bytes) > claim.room:
            with pytest.raises(AssertionError):
                claim.cut(SCOPE, n_bytes)
            continue
        key = claim.cut(SCOPE, n_bytes)
        assert key.key_id.block_number == 3
        assert key.key_id.offset_granules == expected
        assert key.key.reveal() == BLOCK.key.reveal()[expected * 8 : expected * 8 + n_bytes]
        assert is_made_for(opened.id_key, SCOPE, key.key_id)
        expected += granules_of_bytes(n_bytes)
        assert claim.mark == expected
        assert claim.room == 128 - expected


def test_keys_outlive_their_claim_and_the_claim_its_block() -> None:
    opened = OpenBlock.of(BLOCK)
    claim = OpenClaim(_claim(8, 128), opened)
    opened.wipe()
    key = claim.cut(SCOPE, 32)
    claim.wipe()
    assert key.key.reveal() == BLOCK.key.reveal()[64:96]
    with pytest.raises(ValueError, match="wiped"):
        claim.cut(SCOPE, 32)


@pytest.mark.parametrize("stop", [129, 1000])
def test_a_claim_outside_its_block_is_not_opened(stop: int) -> None:
    with pytest.raises(IntegrityError, match="outside its block"):
        OpenClaim(_claim(8, stop), OpenBlock.of(BLOCK))


def test_steps_double_while_claims_are_used_up_quickly_up_to_a_bound() -> None:
    clock = VirtualClock()
    step = Step(clock)
    sizes = []
    for _ in range(12):
        sizes.append(step.n_granules)
        step.claimed()
        clock.advance(0.01)
    assert sizes[:4] == [MIN_STEP_GRANULES, 64, 128, 256]
    assert sizes[-1] == MAX_STEP_GRANULES


def test_steps_halve_again_when_there_is_little_to_do() -> None:
    clock = VirtualClock()
    step = Step(clock)
    for _ in range(4):
        step.claimed()
    assert step.n_granules == 8 * MIN_STEP_GRANULES
    clock.advance(10)
    step.claimed()
    assert step.n_granules == 8 * MIN_STEP_GRANULES
    sizes = []
    for _ in range(5):
        clock.advance(100)
        step.claimed()
        sizes.append(step.n_granules)
    assert sizes == [256, 128, 64, 64, 64]


@given(st.integers(1, 1024), st.integers(1, 200))
@example(key_granules=3, n_keys=1)
@example(key_granules=100, n_keys=1)
def test_a_claim_is_a_whole_number_of_keys_and_at_least_what_is_needed(
    key_granules: int, n_keys: int
) -> None:
    want = Step(VirtualClock()).fitting(key_granules, n_keys * key_granules)
    assert want % key_granules == 0
    assert want >= n_keys * key_granules
    assert want <= max(n_keys * key_granules, MIN_STEP_GRANULES)


def test_no_two_processes_have_the_same_name() -> None:
    names = {fresh_worker_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("worker-") and len(name) == 39 for name in names)
