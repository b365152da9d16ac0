"""packet - what all packet types share: to bytes and back, to files and back, out of streams."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Self

from kme.errors import EpochFileError, InputError
from kme.files import write_whole
from kme.ids import Epoch
from qkd_sim.packets.source import PacketSource

MAX_STREAM_BYTES: Final = 1 << 31


class Packet(ABC):
    """One epoch's packet of one type."""

    TYPE: ClassVar[int]
    FILE_MODE: ClassVar[int] = 0o644
    """Types that hold results are readable by their owner only."""

    MAX_BYTES: ClassVar[int] = 1 << 26
    """A larger packet is refused unread; 50 million events per second would fit."""

    epoch: Epoch
    is_universal: bool

    @abstractmethod
    def pack(self) -> bytes:
        """Return the packet as bytes.

        Raises
        ------
        InputError
            If a value doesn't fit into its field.
        """

    @classmethod
    @abstractmethod
    def parse(cls, source: PacketSource) -> tuple[Self, int]:
        """Read the packet that begins at the source's start.

        Returns
        -------
        packet : Self
            The packet.
        n_bytes : int
            How long it is.

        Raises
        ------
        EpochFileError
            If it breaks the format.
        """

    @classmethod
    def unpack(cls, data: bytes, name: Path | str) -> Self:
        """Read bytes that are one packet and nothing else.

        Parameters
        ----------
        data
            The whole content.
        name
            The file, whose name must be the epoch's; or, as a text, what to
            call the bytes in errors.

        Raises
        ------
        EpochFileError
            If they break the format; with the file and the place in it.
        """
        source = PacketSource(data, name)
        packet, n_bytes = cls.parse(source)
        if n_bytes != len(data):
            source.fail(n_bytes, f"{len(data) - n_bytes} bytes behind the packet's end")
        return packet

    @classmethod
    def unpack_stream(cls, data: bytes, name: str) -> Iterator[Self]:
        """Read packets that follow each other without a gap.

        Raises
        ------
        EpochFileError
            If one breaks the format.
        """
        start_bytes = 0
        while start_bytes < len(data):
            packet, n_bytes = cls.parse(PacketSource(data, name, start_bytes))
            start_bytes += n_bytes
            yield packet

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a packet's file.

        Raises
        ------
        EpochFileError
            If the content breaks the format, is larger than `MAX_BYTES`, or is
            not that of the epoch that the file is named after.
        InputError
            If the file cannot be read.
        """
        return cls.unpack(read_limited(path, cls.MAX_BYTES), path)

    @classmethod
    def read_stream(cls, path: Path) -> Iterator[Self]:
        """Read a file or a pipe of packets that follow each other.

        Raises
        ------
        EpochFileError
            If one breaks the format, or all together are larger than 2 GiB.
        InputError
            If the file cannot be read.
        """
        return cls.unpack_stream(read_limited(path, MAX_STREAM_BYTES), str(path))

    def write(self, directory: Path) -> Path:
        """Write the packet's file into a folder and return its path.

        Raises
        ------
        InputError
            If a value doesn't fit, or the file cannot be written.
        """
        path = directory / self.epoch.file_name
        write_whole(path, self.pack(), self.FILE_MODE)
        return path


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return a file's content, unless it is larger than allowed.

    Raises
    ------
    EpochFileError
        If it is larger than `max_bytes`.
    InputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise EpochFileError(path, max_bytes, f"longer than {max_bytes} bytes")
    return data
