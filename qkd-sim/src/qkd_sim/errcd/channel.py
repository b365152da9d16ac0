"""channel - whole messages over a stream of bytes, between two parties that share nothing else.

This channel carries no authentication of its own: anybody who can write to the
stream can take part. Run both ends on one host, or inside TLS with certificates
of both. A layer that authenticates (Wegman-Carter tags out of earlier key) is
another `Channel` around this one: it tags what `send` is given and checks what
`receive` returns.
"""

import os
import select
import socket
import struct
import time
from typing import Final, Protocol, Self

from qkd_sim.errors import ChannelError

MAX_MESSAGE_BYTES: Final = 1 << 24
"""No message is longer; a greater announced length is a violation."""

_LENGTH: Final = struct.Struct("<I")
_CHUNK_BYTES: Final = 1 << 18


class Channel(Protocol):
    """Whatever carries whole messages both ways, in order."""

    def send(self, message: bytes) -> None:
        """Hand a message to the other party."""
        ...

    def receive(self) -> bytes:
        """Wait for the other party's next message."""
        ...


class Stream(Protocol):
    """Whatever carries bytes both ways."""

    def read(self, timeout_s: float | None) -> bytes:
        """Return what has come, at least one byte; nothing at the end of the stream."""
        ...

    def write(self, data: bytes, timeout_s: float | None) -> None:
        """Write all of `data`."""
        ...

    def close(self) -> None:
        """Let go of the stream."""
        ...


class DescriptorStream:
    """Bytes over file descriptors: a socket's, or those of two FIFOs.

    Parameters
    ----------
    reading, writing
        Open descriptors, maybe the same one; the stream closes them.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self._writing = writing
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._readable = select.poll()
        self._readable.register(reading, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(writing, select.POLLOUT)

    @classmethod
    def of_socket(cls, connection: socket.socket) -> Self:
        """Take over a connected socket."""
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = connection.detach()
        return cls(descriptor, descriptor)

    def read(self, timeout_s: float | None) -> bytes:
        """Return what has come, at least one byte; nothing at the end of the stream.

        Raises
        ------
        ChannelError
            If nothing comes within `timeout_s`, or the stream breaks.
        """
        while True:
            self._wait(self._readable, timeout_s)
            try:
                return os.read(self.reading, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _broken(error) from error

    def write(self, data: bytes, timeout_s: float | None) -> None:
        """Write all of `data`.

        Raises
        ------
        ChannelError
            If the other party doesn't take it within `timeout_s`, or has gone.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._writing, rest) :]
            except BlockingIOError:
                self._wait(self._writable, timeout_s)
            except OSError as error:
                raise _broken(error) from error

    def close(self) -> None:
        """Close both descriptors."""
        for descriptor in {self.reading, self._writing}:
            os.close(descriptor)

    @staticmethod
    def _wait(poll: select.poll, timeout_s: float | None) -> None:
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            raise ChannelError(f"the peer was silent for {timeout_s:g} s")


def _broken(error: OSError) -> ChannelError:
    return ChannelError(f"the channel broke off: {error.strerror}")


class FramedChannel:
    """Messages over a stream, each behind its length in four bytes.

    Parameters
    ----------
    stream
        Carries the bytes; the channel closes it.
    timeout_s
        How long to wait for the peer; without it, for ever.

    Attributes
    ----------
    sent_bytes, received_bytes
        What went over the stream so far, lengths included.
    """

    def __init__(self, stream: Stream, timeout_s: float | None = 60.0) -> None:
        self._stream = stream
        self.timeout_s = timeout_s
        self._arrived = bytearray()
        self.sent_bytes = 0
        self.received_bytes = 0

    @classmethod
    def pair(cls, timeout_s: float | None = 60.0) -> tuple[Self, Self]:
        """Return two ends in this process; only bytes pass between them."""
        left, right = (DescriptorStream.of_socket(end) for end in socket.socketpair())
        return cls(left, timeout_s), cls(right, timeout_s)

    def send(self, message: bytes) -> None:
        """Hand a message to the other party.

        Raises
        ------
        ChannelError
            If it is too long, or the other party doesn't take it.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            raise ChannelError(f"a message of {len(message)} bytes is too long to send")
        data = _LENGTH.pack(len(message)) + message
        self._stream.write(data, self.timeout_s)
        self.sent_bytes += len(data)

    def receive(self) -> bytes:
        """Wait for the other party's next message.

        Raises
        ------
        ChannelError
            If it announces too great a length, breaks off or doesn't come in time.
        """
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        self._fill(_LENGTH.size, deadline)
        (n_bytes,) = _LENGTH.unpack_from(self._arrived)
        if n_bytes > MAX_MESSAGE_BYTES:
            raise ChannelError(f"the peer announces a message of {n_bytes} bytes")
        self._fill(_LENGTH.size + n_bytes, deadline)
        message = bytes(self._arrived[_LENGTH.size : _LENGTH.size + n_bytes])
        del self._arrived[: _LENGTH.size + n_bytes]
        self.received_bytes += _LENGTH.size + n_bytes
        return message

    @property
    def has_arrivals(self) -> bool:
        """Whether bytes are here that no message was made of yet."""
        return bool(self._arrived)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _fill(self, n_bytes: int, deadline: float | None) -> None:
        """Read until `n_bytes` bytes are here; memory grows with what comes, not with promises."""
        while len(self._arrived) < n_bytes:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            data = self._stream.read(left_s)
            if not data:
                raise ChannelError("the peer closed the channel in the middle of the protocol")
            self._arrived += data
