"""files - a file is whole or not there: temporary name, fsync, rename; bad ones are set aside."""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from kme.errors import InputError

ASIDE_DIRECTORY: Final = "aside"
"""Folder beside a bad file into which it is moved."""

TEMPORARY_PREFIX: Final = ".partial-"


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that nobody ever reads half of it.

    Parameters
    ----------
    path
        The file's final name; an older file of that name is replaced.
    data
        Its whole content.
    mode
        Its permission bits.

    Raises
    ------
    InputError
        If the disk is full or the folder cannot be written; nothing of that
        name is left behind half-written.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a folder durable (fsync of the folder)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, name: str | None = None) -> Path:
    """Move a bad file into the folder `aside` next to it and return where it is now.

    A file of the same name that lies there already is kept: the new one gets
    a number behind its name.

    Parameters
    ----------
    path
        The file.
    name
        What it is called there, if not as it is called here.
    """
    name = path.name if name is None else name
    aside = path.parent / ASIDE_DIRECTORY
    if not aside.is_dir():
        aside.mkdir(mode=0o700, exist_ok=True)
        if path.parent.stat().st_mode & stat.S_IWGRP:
            # A folder that its group shares: whoever may tidy up there may do so here.
            aside.chmod(0o2770)
    target = aside / name
    serial = 0
    while target.exists():
        serial += 1
        target = aside / f"{name}.{serial}"
    path.rename(target)
    sync_directory(aside)
    sync_directory(path.parent)
    return target
