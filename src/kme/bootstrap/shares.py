"""shares - the shares of Vault's unseal key: files that hold enough of them, or the others."""

import base64
import binascii
import json
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from kme.errors import InputError
from kme.files import write_whole
from kme.secret import Secret

UNSEALER_MODE: Final = 0o640
OFFLINE_MODE: Final = 0o600

_MAX_FILE_BYTES: Final = 1 << 16


class Found(Enum):
    """What is to be made of a Vault, a marker and the files of shares."""

    EMPTY = auto()
    """Nobody has initialised this Vault: do it."""

    HALF = auto()
    """We initialised it, and its shares were lost before anything could be written to it."""

    OWN = auto()
    """It is ours: the shares are here."""

    FOREIGN_VAULT = auto()
    """Somebody else initialised it."""

    FOREIGN_SHARES = auto()
    """It is empty, and here lie shares of another one."""


def judge(*, is_initialised: bool, is_marked: bool, has_shares: bool) -> Found:
    """Say what a Vault is to us.

    The marker is written before initialising and removed once the shares are
    written; Vault is unsealed only after that. So with a marker and without
    shares nothing was ever stored in it. Shares without a Vault are never
    overwritten: the volume with the keys may only be missing.

    Parameters
    ----------
    is_initialised
        What Vault says.
    is_marked
        Whether the marker is there.
    has_shares
        Whether any file of shares is there: the unsealer's for an initialised
        Vault, either file for an empty one.
    """
    if not is_initialised:
        return Found.FOREIGN_SHARES if has_shares and not is_marked else Found.EMPTY
    if has_shares:
        return Found.OWN
    return Found.HALF if is_marked else Found.FOREIGN_VAULT


def write_shares(path: Path, shares: Sequence[Secret], mode: int) -> None:
    """Write shares, the whole file at once.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    document = {"shares": [share.to_base64() for share in shares]}
    write_whole(path, json.dumps(document, indent=1).encode() + b"\n", mode)


def read_shares(path: Path) -> tuple[Secret, ...]:
    """Read what `write_shares` wrote.

    Raises
    ------
    InputError
        If the file cannot be read or is something else; the message names the
        file and nothing that stands in it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: the unseal shares cannot be read: {error.strerror}") from error
    shares = _parse(data)
    if not shares:
        raise InputError(f"{path}: this is not a file of unseal shares; restore it from a backup")
    return shares


def _parse(data: bytes) -> tuple[Secret, ...]:
    """Return the shares; none if it is no file of shares (the error would quote from it)."""
    try:
        document: Any = json.loads(data)
        texts = document["shares"]
        return tuple(Secret(base64.b64decode(text, validate=True)) for text in texts)
    except (ValueError, KeyError, TypeError, binascii.Error):
        return ()
