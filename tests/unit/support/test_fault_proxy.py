"""The proxy between two KMEs does to a connection what its mode says."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fault_proxy import FaultProxy, Mode
from kme.pair import free_ports

HOST = "127.0.0.1"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[tuple[FaultProxy, list[bytes]]]:
    """Give a proxy before a server that echoes, and what that server heard."""
    heard: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                heard.append(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            heard.append(b"reset")
        finally:
            writer.close()

    port, target = free_ports(2)
    async with (
        await asyncio.start_server(echo, HOST, target),
        FaultProxy(port, target, random.Random(1)).running() as proxy,
    ):
        yield proxy, heard


async def ask(connection: Connection, data: bytes = b"x", timeout_s: float = 3.0) -> bytes:
    reader, writer = connection
    writer.write(data)
    async with asyncio.timeout(timeout_s):
        return await reader.readexactly(len(data))


async def is_silent(connection: Connection) -> bool:
    try:
        await ask(connection, timeout_s=0.2)
    except TimeoutError:
        return True
    return False


def run(work: Callable[[FaultProxy, list[bytes]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with echo_behind_proxy() as (proxy, heard):
            await work(proxy, heard)

    asyncio.run(main())


def open_to(proxy: FaultProxy) -> Awaitable[Connection]:
    return asyncio.open_connection(HOST, proxy.port)


def test_passes_bytes_in_both_directions() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        connection = await open_to(proxy)
        assert await ask(connection, b"hello") == b"hello"
        assert proxy.n_connections == 1
        connection[1].close()

    run(work)


def test_passes_an_end_on() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        reader, writer = connection = await open_to(proxy)
        await ask(connection)
        writer.write_eof()
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()

    run(work)


@pytest.mark.parametrize("mode", [Mode.DELAY, Mode.TRICKLE])
def test_delays_and_loses_nothing(mode: Mode) -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        proxy.switch(mode)
        connection = await open_to(proxy)
        begun_s = time.monotonic()
        data = bytes(range(250))
        assert await ask(connection, data) == data
        assert time.monotonic() - begun_s > 0.02
        connection[1].close()

    run(work)


def test_a_stall_is_silent_and_delivers_late() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        old = await open_to(proxy)
        await ask(old)
        proxy.switch(Mode.STALL)
        new = await open_to(proxy)
        assert await is_silent(old)
        assert await is_silent(new)
        assert heard == [b"x"]
        proxy.switch(Mode.PASS)
        async with asyncio.timeout(3):
            assert await old[0].readexactly(1) == b"x"
            assert await new[0].readexactly(1) == b"x"
        assert len(heard) == 3
        old[1].close()
        new[1].close()

    run(work)


def test_half_open_delivers_requests_and_no_answers_and_resets_at_the_end() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        connection = await open_to(proxy)
        await ask(connection)
        proxy.switch(Mode.HALF_OPEN)
        assert await is_silent(connection)
        assert heard == [b"x", b"x"]
        proxy.switch(Mode.PASS)
        with pytest.raises(ConnectionResetError):
            await ask(connection)
        again = await open_to(proxy)
        assert await ask(again) == b"x"
        connection[1].close()
        again[1].close()

    run(work)


def test_a_reset_ends_old_and_new_connections_with_rst() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        old = await open_to(proxy)
        await ask(old)
        proxy.switch(Mode.RESET)
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionResetError):
            await ask(old)
        new = await open_to(proxy)
        with pytest.raises(ConnectionResetError):
            await ask(new)
        assert heard == [b"x", b"reset"]
        old[1].close()
        new[1].close()

    run(work)


def test_refusing_closes_connections_with_an_end() -> None:
    async def work(proxy: FaultProxy, heard: list[bytes]) -> None:
        old = await open_to(proxy)
        await ask(old)
        proxy.switch(Mode.REFUSE)
        async with asyncio.timeout(3):
            assert await old[0].read() == b""
        old[1].close()

    run(work)


def test_nobody_behind_the_proxy_is_a_reset() -> None:
    async def work() -> None:
        port, nobody = free_ports(2)
        async with FaultProxy(port, nobody, random.Random(1)).running() as proxy:
            connection = await open_to(proxy)
            with pytest.raises(ConnectionResetError):
                await ask(connection)
            connection[1].close()

    asyncio.run(work())
