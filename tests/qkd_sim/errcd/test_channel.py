import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from qkd_sim.errcd.channel import MAX_MESSAGE_BYTES, DescriptorStream, FramedChannel
from qkd_sim.errors import ChannelError

Ends = tuple[FramedChannel, FramedChannel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    left, right = FramedChannel.pair(timeout_s=5.0)
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, FramedChannel]]:
    """Make a bare socket, and a channel at its other end."""
    bare, other = socket.socketpair()
    channel = FramedChannel(DescriptorStream.of_socket(other), timeout_s=0.5)
    yield bare, channel
    bare.close()
    channel.close()


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    left, right = ends
    messages = [b"", b"one", b"x" * 1000]
    for message in messages:
        left.send(message)
    assert [right.receive() for _ in messages] == messages
    right.send(b"back")
    assert left.receive() == b"back"


def test_bytes_are_counted_both_ways(ends: Ends) -> None:
    left, right = ends
    left.send(b"12345")
    right.receive()
    right.send(b"1")
    left.receive()
    assert left.sent_bytes == right.received_bytes == 9
    assert right.sent_bytes == left.received_bytes == 5


def test_a_message_larger_than_any_buffer_passes(ends: Ends) -> None:
    left, right = ends
    large = bytes(range(256)) * 20_000
    thread = threading.Thread(target=left.send, args=(large,))
    thread.start()
    assert right.receive() == large
    thread.join()


def test_a_message_may_come_byte_by_byte(raw: tuple[socket.socket, FramedChannel]) -> None:
    bare, channel = raw

    def dribble() -> None:
        for byte in struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0):
            bare.sendall(bytes((byte,)))
            time.sleep(0.002)

    thread = threading.Thread(target=dribble)
    thread.start()
    assert channel.receive() == b"abc"
    assert channel.receive() == b""
    thread.join()


def test_too_long_a_message_is_refused_before_it_comes(
    raw: tuple[socket.socket, FramedChannel],
) -> None:
    bare, channel = raw
    bare.sendall(struct.pack("<I", MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ChannelError, match="announces"):
        channel.receive()


def test_too_long_a_message_is_not_sent(ends: Ends) -> None:
    with pytest.raises(ChannelError, match="too long"):
        ends[0].send(bytes(MAX_MESSAGE_BYTES + 1))


def test_a_silent_peer_is_given_up(raw: tuple[socket.socket, FramedChannel]) -> None:
    bare, channel = raw
    bare.sendall(b"\x05")
    start = time.monotonic()
    with pytest.raises(ChannelError, match="silent"):
        channel.receive()
    assert time.monotonic() - start < 5


def test_a_peer_that_does_not_read_is_given_up(raw: tuple[socket.socket, FramedChannel]) -> None:
    with pytest.raises(ChannelError, match="silent"):
        raw[1].send(bytes(1 << 23))


@pytest.mark.parametrize("beginning", [b"", b"\x05\x00", b"\x05\x00\x00\x00abc"])
def test_a_channel_that_ends_early_is_an_error(
    raw: tuple[socket.socket, FramedChannel], beginning: bytes
) -> None:
    bare, channel = raw
    bare.sendall(beginning)
    bare.close()
    with pytest.raises(ChannelError, match="closed"):
        channel.receive()


def test_sending_to_a_peer_that_has_gone_is_an_error(
    raw: tuple[socket.socket, FramedChannel],
) -> None:
    bare, channel = raw
    bare.close()
    with pytest.raises(ChannelError, match="broke off"):
        channel.send(b"hello")


def test_what_came_too_early_is_known_to_be_there(ends: Ends) -> None:
    left, right = ends
    left.send(b"one")
    left.send(b"two")
    seen = [right.has_arrivals]
    for message in (b"one", b"two"):
        assert right.receive() == message
        seen.append(right.has_arrivals)
    assert seen == [False, True, False]
