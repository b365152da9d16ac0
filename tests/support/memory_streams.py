"""memory_streams - asyncio streams between two ends in one loop, without sockets."""

import asyncio
from typing import Any

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Line(asyncio.Transport):
    """One direction; what is written arrives in the next turn of the loop."""

    def __init__(self, to: asyncio.StreamReader, other: list["_Line"]) -> None:
        super().__init__()
        self._to = to
        self._other = other
        self._is_closed = False

    def write(self, data: Any) -> None:
        if not self._is_closed:
            self._to.feed_data(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """Close both directions, as a socket does."""
        for line in self._other:
            if not line._is_closed:
                line._is_closed = True
                line._to.feed_eof()

    def abort(self) -> None:
        self.close()


def stream_pair() -> tuple[Streams, Streams]:
    """Return the two ends of a connection."""
    loop = asyncio.get_running_loop()
    left, right = asyncio.StreamReader(), asyncio.StreamReader()
    lines: list[_Line] = []
    lines += [_Line(right, lines), _Line(left, lines)]

    def writer(reader: asyncio.StreamReader, line: _Line) -> asyncio.StreamWriter:
        return asyncio.StreamWriter(line, asyncio.StreamReaderProtocol(reader), reader, loop)

    return (left, writer(left, lines[0])), (right, writer(right, lines[1]))
