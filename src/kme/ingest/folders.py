"""folders - the folders of epoch files: made as services share them, and what lies in them."""

import os
from pathlib import Path
from typing import Final

from kme.clock import Clock
from kme.epochs.finalkey import GIVEN_PREFIX
from kme.errors import IdentifierError, InputError
from kme.ids import Epoch, KmeId, SourceId

MAX_NAMES: Final = 100_000
"""At most so many names of a folder are looked at in one go."""

SHARED_MODE: Final = 0o2770
"""Services of several users share a folder through its group, which files in it inherit."""


def make_shared(root: Path, peer: KmeId, source: SourceId) -> Path:
    """Return the folder of one source's files, ``root/peer/source``, making it if absent.

    Raises
    ------
    InputError
        If it cannot be made, or isn't to be written to.
    """
    folder = root / peer / source
    for path in (folder.parent, folder):
        try:
            path.mkdir(mode=0o770)
            path.chmod(SHARED_MODE)  # whatever the umask is
        except FileExistsError:
            pass
        except OSError as error:
            raise InputError(
                f"{path}: the folder cannot be made: {error.strerror}; {root} must exist with "
                f"mode {SHARED_MODE:o} and the group that the services share (KME_GID)"
            ) from error
    if not (folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        raise InputError(
            f"{folder}: this service may not read and write there; it must be a folder of mode "
            f"{SHARED_MODE:o} and of the group that the services share (KME_GID)"
        )
    return folder


def epoch_names(directory: Path) -> set[str]:
    """Return the epochs that are names in a folder, but not of sub-folders.

    A file that a store was given, and that lies there still, counts under its
    epoch, whatever else lies there (`kme.ingest.given`).

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    names = set()
    with os.scandir(directory) as entries:
        for _, entry in zip(range(MAX_NAMES), entries, strict=False):
            name = entry.name.removeprefix(GIVEN_PREFIX)
            if _is_epoch(name) and not entry.is_dir(follow_symlinks=False):
                names.add(name)
    return names


def universal(epoch: Epoch, clock: Clock) -> Epoch:
    """Return the universal epoch nearest to now that a file's epoch stands for."""
    return epoch.extended(near=Epoch.at_time(clock.now_s()))


def _is_epoch(name: str) -> bool:
    try:
        Epoch.from_file_name(name)
    except IdentifierError:
        return False
    return True
