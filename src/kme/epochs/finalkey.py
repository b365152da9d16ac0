"""finalkey - the type-7 file: the secret bits that the chain distilled from a run of epochs."""

import errno
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kme.errors import EpochFileError, InputError, UnavailableError
from kme.files import write_whole
from kme.ids import Epoch
from kme.secret import Secret
from kme.units import BITS_PER_BYTE

TAG: Final = 7
MAX_KEY_BYTES: Final = 1 << 23
"""A file with more key than 8 MiB is refused unread."""

MAX_EPOCHS: Final = 1 << Epoch.LOCAL_BITS
"""A local epoch's number repeats after so many; no key spans more."""

GIVEN_PREFIX: Final = ".given-"
"""So begins a file's name from before a store is given its key until it is certain that the
store refused it, or the file is removed."""

_HEADER: Final = struct.Struct("<4I")
_WORD_BYTES: Final = 4
_MAX_FILE_BYTES: Final = _HEADER.size + MAX_KEY_BYTES
_N_EPOCHS_AT, _N_BITS_AT, _EPOCH_AT = 8, 12, 4
_UNIVERSAL_TAG: Final = 0x107
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""The machine's trouble, not the file's."""


@dataclass(frozen=True, slots=True)
class FinalKeyFile:
    """What a type-7 file says.

    Parameters
    ----------
    start_epoch
        First epoch that the key was distilled from; local or universal.
    n_epochs
        How many epochs it was distilled from, ``1 <= n_epochs <= 2**17``.
    n_bits
        Length of the key in bits; 0 if nothing secret was left.
    key
        ``ceil(n_bits / 8)`` bytes; bit 0 of the key is the most significant
        bit of byte 0, bits behind the last one are zero.

    Raises
    ------
    InputError
        If the fields contradict one another.

    References
    ----------
    qcrypto, ``remotecrypto``: files of type 7 (final key).
    """

    start_epoch: Epoch
    n_epochs: int
    n_bits: int
    key: Secret

    def __post_init__(self) -> None:
        if not 1 <= self.n_epochs <= MAX_EPOCHS:
            raise InputError(
                f"a final key comes from 1 to {MAX_EPOCHS} epochs, not {self.n_epochs}"
            )
        if not 0 <= self.n_bits <= MAX_KEY_BYTES * BITS_PER_BYTE:
            raise InputError(f"a final key has at most {MAX_KEY_BYTES} bytes")
        if len(self.key) != -(-self.n_bits // BITS_PER_BYTE):
            raise InputError(f"{self.n_bits} bits of final key do not fill {len(self.key)} bytes")
        rest = self.n_bits % BITS_PER_BYTE
        if rest and self.key[-1:].reveal()[0] & (0xFF >> rest):
            raise InputError("the bits behind a final key's last one must be zero")

    def pack(self) -> bytes:
        """Return the file's bytes: four words of header, then the key in words."""
        header = _HEADER.pack(TAG, self.start_epoch.number, self.n_epochs, self.n_bits)
        padding = bytes(-len(self.key) % _WORD_BYTES)
        return header + _swap_words(self.key.reveal() + padding)

    @classmethod
    def unpack(cls, data: bytes, name: Path | str) -> Self:
        """Read a file's bytes.

        Parameters
        ----------
        data
            The whole file.
        name
            Where it came from; its last part must be the start epoch as eight
            lower-case hexadecimal digits.

        Raises
        ------
        EpochFileError
            If a rule of the format is broken; it says which one, and where.
        """
        start_epoch, n_epochs, n_bits = _read_header(data, name)
        body = _swap_words(data[_HEADER.size :])
        n_bytes = -(-n_bits // BITS_PER_BYTE)
        n_padding_bits = len(body) * BITS_PER_BYTE - n_bits
        if int.from_bytes(body[-_WORD_BYTES:]) & ((1 << n_padding_bits) - 1):
            raise EpochFileError(
                name, len(data) - _WORD_BYTES, f"padding behind bit {n_bits - 1} is not zero"
            )
        return cls(start_epoch, n_epochs, n_bits, Secret(body[:n_bytes]))


def write_final_key(directory: Path, final: FinalKeyFile) -> Path:
    """Write a type-7 file, named after its start epoch, readable by its owner only.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If it cannot be written; nothing half-written is left.
    """
    path = directory / final.start_epoch.file_name
    write_whole(path, final.pack(), mode=0o600)
    return path


def read_final_key(path: Path, name: str | None = None) -> FinalKeyFile:
    """Read a type-7 file.

    Parameters
    ----------
    path
        The file.
    name
        What it is to be called after its start epoch, if it isn't just now.

    Raises
    ------
    EpochFileError
        If it isn't one, cannot be read or is larger than any can be. Links,
        pipes and devices are refused.
    UnavailableError
        If the machine is out of memory or file descriptors: the file may be
        good.
    """
    try:
        data = _read_regular_file(path)
        return FinalKeyFile.unpack(data, path if name is None else path.with_name(name))
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise UnavailableError(f"{path}: cannot be read now: {error.strerror}") from error
        reason = "is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise EpochFileError(path, 0, reason) from error


def _read_regular_file(path: Path) -> bytes:
    # Without O_NONBLOCK the open itself would hang on a pipe that nobody writes to.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EpochFileError(path, 0, "is not a regular file")
        data = stream.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise EpochFileError(path, _MAX_FILE_BYTES, f"has more than {_MAX_FILE_BYTES} bytes")
    return data


def _read_header(data: bytes, name: Path | str) -> tuple[Epoch, int, int]:
    if len(data) < _HEADER.size:
        raise EpochFileError(
            name, len(data), f"ends within the header, which has {_HEADER.size} bytes"
        )
    tag, epoch_number, n_epochs, n_bits = _HEADER.unpack_from(data)
    if tag != TAG:
        hint = "; this type has no universal variant" if tag == _UNIVERSAL_TAG else ""
        raise EpochFileError(name, 0, f"tag is {tag:#x}, a final key's is {TAG:#x}{hint}")
    start_epoch = Epoch(epoch_number)
    if Path(name).name != start_epoch.file_name:
        raise EpochFileError(
            name, _EPOCH_AT, f"start epoch is {start_epoch}, the file is named otherwise"
        )
    if not 1 <= n_epochs <= MAX_EPOCHS:
        raise EpochFileError(
            name, _N_EPOCHS_AT, f"number of epochs is {n_epochs}, must be in 1..{MAX_EPOCHS}"
        )
    _check_size(len(data), n_bits, name)
    return start_epoch, n_epochs, n_bits


def _check_size(n_file_bytes: int, n_bits: int, name: Path | str) -> None:
    if n_bits > MAX_KEY_BYTES * BITS_PER_BYTE:
        raise EpochFileError(
            name, _N_BITS_AT, f"says {n_bits} bits, at most {MAX_KEY_BYTES} bytes are read"
        )
    n_words = -(-n_bits // (_WORD_BYTES * BITS_PER_BYTE))
    n_expected = _HEADER.size + _WORD_BYTES * n_words
    if n_file_bytes != n_expected:
        raise EpochFileError(
            name,
            min(n_file_bytes, n_expected),
            f"{n_bits} bits make a file of {n_expected} bytes, this one has {n_file_bytes}",
        )


def _swap_words(data: bytes) -> bytes:
    """Turn bytes in the order of the key's bits into little-endian words, or back."""
    swapped = bytearray(len(data))
    for place in range(_WORD_BYTES):
        swapped[place::_WORD_BYTES] = data[_WORD_BYTES - 1 - place :: _WORD_BYTES]
    return bytes(swapped)
