"""assemble - raw key files of several epochs become one block of sifted key.

The bits of the epochs are put one behind the other. The C program orders them
otherwise (whole words of all epochs interleaved with a queue of what is left
over), so both ends of a link have to be of one kind.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kme.ids import Epoch
from qkd_sim.errcd.messages import MAX_BLOCK_BITS
from qkd_sim.errors import EpochFileError
from qkd_sim.packets import Type3


@dataclass(frozen=True, eq=False)
class SiftedBlock:
    """Sifted key of consecutive epochs, as one side has it.

    Parameters
    ----------
    start_epoch
        The first epoch.
    n_epochs
        How many there are.
    bits : (n,) ndarray of uint8
        One bit per element.
    """

    start_epoch: Epoch
    n_epochs: int
    bits: NDArray[np.uint8] = field(repr=False)


def raw_key_paths(directory: Path, start_epoch: Epoch, n_epochs: int) -> list[Path]:
    """Return where the raw keys of these epochs are, in their order.

    Epochs without a file are left out: a side that sifted nothing in an epoch
    may have written none. Local epochs run on at zero after the last one.
    """
    n_numbers = 1 << (Epoch.LOCAL_BITS if start_epoch.is_local else Epoch.BITS)
    epochs = (Epoch((start_epoch.number + i) % n_numbers) for i in range(n_epochs))
    return [path for epoch in epochs if (path := directory / epoch.file_name).exists()]


def read_block(directory: Path, start_epoch: Epoch, n_epochs: int) -> SiftedBlock:
    """Read the raw key files of a block.

    Parameters
    ----------
    directory
        Where they are, each named after its epoch.
    start_epoch, n_epochs
        Which ones.

    Raises
    ------
    EpochFileError
        If there is none, one is broken or has more than one bit per entry, or
        together they are longer than a block may be.
    """
    parts = []
    n_bits = 0
    for path in raw_key_paths(directory, start_epoch, n_epochs):
        packet = Type3.read(path)
        if packet.bits_per_entry != 1:
            raise EpochFileError(path, 12, f"{packet.bits_per_entry} bits per entry, not 1")
        n_bits += packet.values.size
        if n_bits > MAX_BLOCK_BITS:
            raise EpochFileError(path, 8, f"the block gets longer than {MAX_BLOCK_BITS} bits")
        parts.append(packet.values)
    if not parts:
        raise EpochFileError(
            directory / start_epoch.file_name,
            0,
            f"no raw key of this and {n_epochs - 1} more epochs",
        )
    return SiftedBlock(start_epoch, n_epochs, np.concatenate(parts))
