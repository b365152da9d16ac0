"""masterkey - the file of 32 random bytes under which a store's data keys are wrapped."""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from kme.errors import SettingsError
from kme.secret import Secret

MASTER_KEY_BYTES: Final = 32
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def create_master_key(path: Path) -> Secret:
    """Make the file if it isn't there, and return its key.

    Raises
    ------
    SettingsError
        If it cannot be written, or is there and no master key.

    See Also
    --------
    read_master_key : Only reads; for a store that must exist already.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        if not os.path.lexists(path):
            try:
                _write(temporary, secrets.token_bytes(MASTER_KEY_BYTES))
                _publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{path}: the master key cannot be written: {error.strerror}"
        ) from error
    return read_master_key(path)


def read_master_key(path: Path) -> Secret:
    """Read the file.

    Raises
    ------
    SettingsError
        If it cannot be read, others may read it, or it hasn't 32 bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            # One byte more than it may have, so that a longer file is noticed.
            data = stream.read(MASTER_KEY_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise SettingsError(f"{path}: the master key cannot be read: {error.strerror}") from error
    if status.st_mode & _OTHERS:
        raise SettingsError(
            f"{path}: others may use this master key (mode {status.st_mode & 0o777:o}):"
            " make it 0600 and think about who has read it"
        )
    if len(data) != MASTER_KEY_BYTES:
        raise SettingsError(f"{path}: a master key is a file of {MASTER_KEY_BYTES} bytes")
    return Secret(data)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def _publish(temporary: Path, path: Path) -> None:
    """Give the file its name, unless another process was first: its key counts then."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
