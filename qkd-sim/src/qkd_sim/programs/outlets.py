"""outlets - where a stage program leaves its packets: a folder with a file each, or one stream."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # at run time only what makes packets needs numba
    from qkd_sim.packets import Packet


class Outlet(Protocol):
    """What takes packets."""

    def put(self, packet: "Packet") -> None:
        """Take one packet, whole."""
        ...


class _Folder:
    """A folder with one file per epoch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, packet: "Packet") -> None:
        """Write the packet's file."""
        packet.write(self._directory)


class _Stream:
    """A file or a pipe with one packet behind the other."""

    def __init__(self, path: Path) -> None:
        # unbuffered, so that a reader at a pipe's end gets each packet at once
        self._stream = path.open("wb", buffering=0)

    def put(self, packet: "Packet") -> None:
        """Append the packet."""
        data = memoryview(packet.pack())
        while data:
            data = data[self._stream.write(data) :]

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class _Nowhere:
    """No place was named: packets are dropped."""

    def put(self, packet: "Packet") -> None:
        """Drop the packet."""


def add_output(
    parser: argparse.ArgumentParser,
    folder_option: tuple[str, str],
    stream_option: tuple[str, str],
    what: str,
    *,
    is_required: bool = True,
) -> None:
    """Add the two options that say where packets go; one of them may be given.

    Parameters
    ----------
    parser
        The program's options.
    folder_option, stream_option
        Letter and long name of each, with their dashes.
    what
        Which packets, for the help.
    is_required
        Whether one of them must be given.
    """
    group = parser.add_mutually_exclusive_group(required=is_required)
    group.add_argument(
        *folder_option, type=Path, metavar="DIR", help=f"folder for {what}, a file per epoch"
    )
    group.add_argument(
        *stream_option,
        type=Path,
        metavar="FILE",
        help=f"file or pipe for {what}, one after another",
    )


@contextmanager
def open_outlet(directory: Path | None, stream: Path | None) -> Iterator[Outlet]:
    """Open whichever is given; packets go nowhere if neither is."""
    if directory is not None:
        yield _Folder(directory)
    elif stream is not None:
        opened = _Stream(stream)
        try:
            yield opened
        finally:
            opened.close()
    else:
        yield _Nowhere()
