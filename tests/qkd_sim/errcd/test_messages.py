import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_sim.errcd.messages import (
    MAX_BLOCK_BITS,
    MESSAGES,
    VERSION,
    AmplificationSeed,
    Branches,
    CheckRequest,
    Confirmation,
    Goodbye,
    KeyTag,
    Message,
    Offer,
    Parities,
    PassRequest,
    Plan,
    Reason,
    ReconcileDone,
    Refusal,
    SampleBits,
    Verdict,
    WaveRequest,
    unpack,
)
from qkd_sim.errors import ChannelError

BITS = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.uint8)

EXAMPLES: list[Message] = [
    Offer(0x4F87, 3, 1000, 100, bytes(32), bytes(range(32))),
    SampleBits(BITS),
    SampleBits(np.empty(0, np.uint8)),
    Plan(bytes(range(32))),
    PassRequest(1, 64),
    WaveRequest(0, np.array([[0, 2]], np.int64)),
    WaveRequest(130, np.array([[3, 200], [200, 70_000], [1_000_000, 9_000_000]], np.int64)),
    Branches(BITS),
    CheckRequest(20),
    Parities(BITS[:8]),
    ReconcileDone(1234, 56),
    KeyTag(bytes(48), bytes(range(16))),
    Verdict(True),  # noqa: FBT003
    Verdict(False),  # noqa: FBT003
    AmplificationSeed(BITS),
    Confirmation(77),
    *(Refusal(reason) for reason in Reason),
    Goodbye(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_packed_message_is_unpacked_again(message: Message) -> None:
    data = message.pack()
    again = unpack(data)
    assert type(again) is type(message)
    for name, value in vars(message).items():
        assert np.array_equal(getattr(again, name), value)
    assert again.pack() == data


def test_every_message_has_an_example_and_a_kind_of_its_own() -> None:
    assert {type(message) for message in EXAMPLES} == set(MESSAGES.values())
    assert len(MESSAGES) == 15


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_truncated_or_lengthened_message_is_refused(message: Message) -> None:
    data = message.pack()
    for wrong in (data[:-1], data + b"\0", data + bytes(64)):
        with pytest.raises(ChannelError):
            unpack(wrong)


@settings(deadline=None, max_examples=300)
@given(kind=st.integers(0, 255), body=st.binary(max_size=120))
def test_garbage_is_refused_or_is_a_message(kind: int, body: bytes) -> None:
    try:
        message = unpack(bytes((VERSION, kind)) + body)
    except ChannelError:
        return
    assert isinstance(message, Message)
    assert unpack(message.pack()).pack() == message.pack()


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_mutated_message_is_refused_or_is_a_message(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(EXAMPLES)).pack())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ChannelError):
        assert isinstance(unpack(bytes(raw)), Message)


def test_another_version_is_refused() -> None:
    with pytest.raises(ChannelError, match="version 2"):
        unpack(bytes((2, 15)))


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0", b"\1\x10"])
def test_what_has_no_known_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        unpack(data)


@pytest.mark.parametrize(
    ("n_epochs", "n_bits", "sample_bits"),
    [(1, 10, 10), (1, 10, 0), (1, MAX_BLOCK_BITS + 1, 5), (0, 10, 5), (1 << 17, 10, 5)],
)
def test_an_offer_with_counts_out_of_range_is_refused(
    n_epochs: int, n_bits: int, sample_bits: int
) -> None:
    offer = Offer(1, n_epochs, n_bits, sample_bits, bytes(32), bytes(32))
    with pytest.raises(ChannelError, match="Offer"):
        unpack(offer.pack())


@pytest.mark.parametrize("pairs", [[[0, 1]], [[5, 5]], [[0, 10], [9, 12]], [[0, 4], [4, 5]]])
def test_a_wave_of_overlapping_or_too_short_intervals_is_refused(pairs: list[list[int]]) -> None:
    with pytest.raises(ChannelError, match="overlap"):
        unpack(WaveRequest(0, np.array(pairs, np.int64)).pack())


@pytest.mark.parametrize("head", [(0, 0, 1, 1), (0, 1, 3, 1), (0, 1 << 25, 1, 1)])
def test_a_wave_with_an_impossible_head_is_refused(head: tuple[int, ...]) -> None:
    with pytest.raises(ChannelError):
        unpack(bytes((VERSION, 5)) + struct.pack("<BIBB", *head) + bytes(2))


def test_bits_behind_the_last_one_are_refused() -> None:
    data = bytearray(Parities(BITS).pack())
    data[-1] |= 0x80
    with pytest.raises(ChannelError, match="behind its end"):
        unpack(bytes(data))


def test_an_announced_count_is_checked_before_anything_is_made_of_it() -> None:
    with pytest.raises(ChannelError):
        unpack(bytes((VERSION, 8)) + struct.pack("<I", (1 << 32) - 1))


def test_an_unknown_reason_is_refused() -> None:
    with pytest.raises(ChannelError, match="unknown reason 99"):
        unpack(Refusal(99).pack())


def test_every_reason_has_words() -> None:
    assert len({reason.text for reason in Reason}) == len(Reason)
