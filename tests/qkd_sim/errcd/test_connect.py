import os
import socket
import threading
from pathlib import Path

import pytest

from qkd_sim.errcd.channel import DescriptorStream, FramedChannel
from qkd_sim.errcd.connect import connect, inherit, listen, open_fifos, parse_address
from qkd_sim.errors import ChannelError, InputError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_an_address_is_host_and_port() -> None:
    assert parse_address("localhost:4852") == ("localhost", 4852)
    assert parse_address("[::1]:4852") == ("::1", 4852)
    for text in ("localhost", ":1", "host:", "host:x", "host:65536", "host:-1"):
        with pytest.raises(InputError):
            parse_address(text)


def exchange(one: DescriptorStream, two: DescriptorStream) -> None:
    ends = FramedChannel(one, 5.0), FramedChannel(two, 5.0)
    for speaker, listener in (ends, ends[::-1]):
        speaker.send(b"hello")
        assert listener.receive() == b"hello"
    for end in ends:
        end.close()


def open_both(first: object, second: object) -> None:
    """Open the two ends at the same time and talk over them."""
    streams: list[DescriptorStream] = []
    thread = threading.Thread(target=lambda: streams.append(first()))  # type: ignore[operator]
    thread.start()
    other = second()  # type: ignore[operator]
    thread.join(10)
    exchange(streams[0], other)


def test_one_listens_and_one_connects() -> None:
    address = ("127.0.0.1", free_port())
    open_both(lambda: connect(address, 10), lambda: listen(address, 10))


def test_two_fifos_are_opened_in_any_order(tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    os.mkfifo(there)
    os.mkfifo(back)
    open_both(lambda: open_fifos(there, back, 10), lambda: open_fifos(back, there, 10))


def test_a_socket_is_inherited() -> None:
    one, two = socket.socketpair()
    exchange(inherit(one.detach()), inherit(two.detach()))


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="nobody listens"):
        connect(("127.0.0.1", free_port()), 0.1)
    with pytest.raises(ChannelError, match="nobody connected"):
        listen(("127.0.0.1", free_port()), 0.1)
    there, back, missing = (tmp_path / name for name in ("there", "back", "missing"))
    os.mkfifo(there)
    os.mkfifo(back)
    for sending, receiving, named in (
        (there, missing, "missing"),
        (missing, back, "missing"),
        (there, back, "there"),
    ):
        with pytest.raises(ChannelError, match=named):
            open_fifos(sending, receiving, 0.1)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ChannelError, match=str(port)):
            listen(("127.0.0.1", port), 1)


def test_what_is_no_socket_is_not_inherited(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ChannelError, match="no socket"):
        inherit(file.fileno())
