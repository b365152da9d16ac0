"""connect - ways to a stream of bytes: a socket listened for, connected or inherited, or FIFOs."""

import os
import socket
import time
from pathlib import Path
from typing import Final

from qkd_sim.errcd.channel import DescriptorStream
from qkd_sim.errors import ChannelError, InputError

_RETRY_S: Final = 0.05


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; a host with colons stands in brackets.

    Raises
    ------
    InputError
        If it isn't an address.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) >= 1 << 16:
        raise InputError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def listen(address: tuple[str, int], timeout_s: float) -> DescriptorStream:
    """Wait for one connection.

    Raises
    ------
    ChannelError
        If the address cannot be used, or nobody connects in time.
    """
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server(address, family=family) as server:
            server.settimeout(timeout_s)
            connection, _ = server.accept()
    except TimeoutError as error:
        raise ChannelError(f"nobody connected to {host}:{port} within {timeout_s:g} s") from error
    except OSError as error:
        raise ChannelError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return DescriptorStream.of_socket(connection)


def connect(address: tuple[str, int], timeout_s: float) -> DescriptorStream:
    """Connect, again and again until the peer is there.

    Raises
    ------
    ChannelError
        If nobody listens within `timeout_s`, or the host is unknown.
    """
    host, port = address
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return DescriptorStream.of_socket(socket.create_connection(address, timeout_s))
        except (ConnectionRefusedError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise ChannelError(f"nobody listens on {host}:{port}") from error
            time.sleep(_RETRY_S)
        except OSError as error:
            raise ChannelError(f"cannot connect to {host}:{port}: {error.strerror}") from error


def inherit(descriptor: int) -> DescriptorStream:
    """Take over a connected socket that the parent process opened.

    Raises
    ------
    ChannelError
        If there is no socket of that number.
    """
    try:
        return DescriptorStream.of_socket(socket.socket(fileno=descriptor))
    except OSError as error:
        raise ChannelError(f"descriptor {descriptor} is no socket: {error.strerror}") from error


def open_fifos(sending: Path, receiving: Path, timeout_s: float) -> DescriptorStream:
    """Open a FIFO to send into and one to receive from, in either order on either side.

    Raises
    ------
    ChannelError
        If one isn't there, or the peer doesn't open its ends in time.
    """
    try:
        reading = os.open(receiving, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelError(f"{receiving}: cannot be opened: {error.strerror}") from error
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            # fails until the peer has opened its end for reading
            writing = os.open(sending, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or time.monotonic() > deadline:
                os.close(reading)
                raise ChannelError(f"{sending}: cannot be opened: {error.strerror}") from error
            time.sleep(_RETRY_S)
        else:
            return DescriptorStream(reading, writing)
