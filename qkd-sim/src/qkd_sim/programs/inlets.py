"""inlets - where a stage program takes packets from: a folder with a file each, or one stream."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from kme.errors import IdentifierError, InputError
from kme.ids import Epoch
from qkd_sim.programs import options

if TYPE_CHECKING:  # at run time only what makes packets needs numba
    from qkd_sim.packets import Packet

AnyPacket = TypeVar("AnyPacket", bound="Packet")


def add_input(
    parser: argparse.ArgumentParser,
    folder_option: tuple[str, str],
    stream_option: tuple[str, str],
    what: str,
) -> None:
    """Add the two options that say where packets come from; one of them must be given.

    Parameters
    ----------
    parser
        The program's options.
    folder_option, stream_option
        Letter and long name of each, with their dashes.
    what
        Which packets, for the help.
    """
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        *folder_option, type=Path, metavar="DIR", help=f"folder of {what}, a file per epoch"
    )
    group.add_argument(
        *stream_option, type=Path, metavar="FILE", help=f"file or pipe of {what}, one after another"
    )


def add_epochs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which epochs are wanted."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "-e",
        "--start-epoch",
        type=options.epoch,
        metavar="EPOCH",
        help="first epoch, decimal or 0x hexadecimal (needed with folders, unless -E is given)",
    )
    which.add_argument(
        "-E",
        "--epoch-pipe",
        type=Path,
        metavar="FILE",
        help="file or pipe that names the epochs to do, 8 hexadecimal digits a line",
    )
    parser.add_argument(
        "-q",
        "--epochs",
        type=options.integer(0),
        default=0,
        metavar="N",
        help="how many epochs; 0: until there is none left (default: 0)",
    )


class Inlet(Generic[AnyPacket]):
    """Packets of one type.

    Parameters
    ----------
    packet_type
        Which type.
    directory, stream
        Where they are; one of the two.
    """

    def __init__(
        self, packet_type: type[AnyPacket], directory: Path | None, stream: Path | None
    ) -> None:
        self._packet_type = packet_type
        self._directory = directory
        self._stream_path = stream
        self._packets: Iterator[AnyPacket] = (
            iter(()) if stream is None else packet_type.read_stream(stream)
        )

    @property
    def is_folder(self) -> bool:
        """Whether every epoch has a file of its own."""
        return self._directory is not None

    def has(self, epoch: Epoch) -> bool:
        """Whether a folder holds this epoch."""
        return self._directory is not None and (self._directory / epoch.file_name).exists()

    def rest(self) -> Iterator[AnyPacket]:
        """Return a stream's packets that were not taken yet."""
        return self._packets

    def take(self, epoch: Epoch) -> AnyPacket:
        """Return this epoch's packet; a stream's packets before it are passed over.

        Raises
        ------
        EpochFileError
            If a packet breaks the format.
        InputError
            If there is no such packet, or the file cannot be read.
        """
        if self._directory is not None:
            return self._packet_type.read(self._directory / epoch.file_name)
        for packet in self._packets:
            if packet.epoch == epoch:
                return packet
        raise InputError(f"{self._stream_path}: no packet of epoch {epoch}")

    def remove(self, epoch: Epoch) -> None:
        """Delete this epoch's file; a stream stays as it is."""
        if self._directory is not None:
            (self._directory / epoch.file_name).unlink()


def wanted(inlet: Inlet[AnyPacket], arguments: argparse.Namespace) -> Iterator[AnyPacket]:
    """Take the packets of the epochs that the options of `add_epochs` ask for.

    Parameters
    ----------
    inlet
        The packets that say which epochs there are.
    arguments
        The options.

    Yields
    ------
    AnyPacket
        In the order asked for.

    Raises
    ------
    EpochFileError
        If a packet breaks the format.
    InputError
        If an epoch that was asked for isn't there, or nothing says which ones.
    """
    n_epochs = arguments.epochs or None
    if arguments.epoch_pipe is not None:
        for epoch in itertools.islice(_named(arguments.epoch_pipe), n_epochs):
            yield inlet.take(epoch)
    elif arguments.start_epoch is not None:
        epochs = _counted(arguments.start_epoch)
        first = next(epochs)
        yield inlet.take(first)
        for epoch in itertools.islice(epochs, n_epochs and n_epochs - 1):
            if n_epochs is None and inlet.is_folder and not inlet.has(epoch):
                return
            yield inlet.take(epoch)
    elif inlet.is_folder:
        raise InputError("which epochs? Give the first one (-e) or a pipe that names them (-E)")
    else:
        yield from itertools.islice(inlet.rest(), n_epochs)


def _counted(first: Epoch) -> Iterator[Epoch]:
    """Return this epoch and all that follow it."""
    from qkd_sim.epochsplit import following  # noqa: PLC0415 - numba is slow to import

    epoch = first
    while True:
        yield epoch
        epoch = following(epoch, is_universal=not epoch.is_local)


def _named(path: Path) -> Iterator[Epoch]:
    """Read epochs from a file or a pipe as they are written to it."""
    with path.open(encoding="ascii", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                epoch = Epoch.from_file_name(line.strip())
            except IdentifierError as error:
                raise InputError(f"{path}: line {number}: {error}") from error
            yield epoch
