"""source - bytes that hold packets, with the name that an error must give."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from kme.errors import EpochFileError, IdentifierError
from kme.ids import Epoch

_UNIVERSAL_TAG = 0x100
WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Header:
    """First words of a packet.

    Parameters
    ----------
    epoch, is_universal
        Which stretch of time, and in which count.
    n_entries
        What the header says about the number of entries.
    rest
        The words behind it, which differ from type to type.
    """

    epoch: Epoch
    is_universal: bool
    n_entries: int
    rest: tuple[int, ...]


@dataclass(frozen=True, slots=True, repr=False)
class PacketSource:
    """Bytes from a file or a stream, read from `start_bytes` on.

    Parameters
    ----------
    data
        All bytes.
    name
        A `Path` is a file that must be named after its packet's epoch; a text
        is just a name.
    start_bytes
        Where the packet begins.
    """

    data: bytes
    name: Path | str
    start_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """How many bytes there are from the packet's first one on."""
        return len(self.data) - self.start_bytes

    def fail(self, offset_bytes: int, message: str) -> NoReturn:
        """Raise `EpochFileError` for a place counted from the packet's first byte."""
        raise EpochFileError(self.name, self.start_bytes + offset_bytes, message)

    def words(self, offset_bytes: int, n_words: int) -> NDArray[np.uint32]:
        """Return words that are known to be there."""
        view = np.frombuffer(self.data, "<u4", n_words, self.start_bytes + offset_bytes)
        return view.astype(np.uint32, copy=False)

    def n_words_behind(self, offset_bytes: int) -> int:
        """Return how many whole words there are from a place on."""
        return (self.n_bytes - offset_bytes) // WORD_BYTES

    def header(self, packet_type: int, n_words: int) -> Header:
        """Read and check a packet's first words.

        Raises
        ------
        EpochFileError
            If they are cut off, are those of another type, or don't fit the
            file's name.
        """
        if self.n_words_behind(0) < n_words:
            self.fail(
                max(self.n_bytes, 0), f"cut off within the header of {n_words * WORD_BYTES} bytes"
            )
        tag, number, n_entries, *rest = (int(word) for word in self.words(0, n_words))
        if tag not in {packet_type, packet_type | _UNIVERSAL_TAG}:
            self.fail(0, f"tag is {tag:#x}, not that of type {packet_type}")
        epoch, is_universal = Epoch(number), tag != packet_type
        if not is_universal and not epoch.is_local:
            self.fail(4, f"epoch {epoch} is universal, but the tag says local")
        if isinstance(self.name, Path) and self.name.name != epoch.file_name:
            self.fail(4, f"epoch is {epoch}, which is not the file's name")
        return Header(epoch, is_universal, n_entries, tuple(rest))


def header_bytes(packet_type: int, header: Header) -> bytes:
    """Return a packet's first words.

    Raises
    ------
    IdentifierError
        If a universal epoch is called local.
    """
    if not header.is_universal and not header.epoch.is_local:
        raise IdentifierError(f"epoch {header.epoch} is universal and cannot be called local")
    tag = packet_type | _UNIVERSAL_TAG if header.is_universal else packet_type
    words = (tag, header.epoch.number, header.n_entries, *header.rest)
    return np.array(words, dtype="<u4").tobytes()
