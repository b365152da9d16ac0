"""snapshot_file - a file in; whether it is a whole snapshot of a Vault, and from when, out.

Vault writes a compressed archive of its data, still encrypted, with SHA-256 sums of it, and
the sums once more, sealed under its unseal key: those only a Vault with that key can check.
"""

import gzip
import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from kme.errors import InputError

_META, _STATE, _SUMS, _SEALED = "meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"
_MEMBERS: Final = (_META, _STATE, _SUMS, _SEALED)
_MAX_SMALL_BYTES: Final = 8192
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What a snapshot says of itself.

    Parameters
    ----------
    index
        Number of the last write to Vault that is in it.
    n_bytes
        Size of Vault's data, uncompressed.
    """

    index: int
    n_bytes: int


def check_snapshot(path: Path) -> SnapshotFacts:
    """Read a snapshot to its end, piece by piece, and check its sums.

    Raises
    ------
    InputError
        If it is none, is damaged or is not whole.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise InputError(f"{path}: this is no backup of Vault, or only a part of one") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read(file: IO[bytes], path: Path) -> SnapshotFacts:
    small: dict[str, bytes] = {}
    sums: dict[str, str] = {}
    n_bytes = 0
    with gzip.GzipFile(fileobj=file) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None or member.name not in _MEMBERS or member.name in sums:
                    raise InputError(f"{path}: this is an archive, but no backup of Vault")
                if member.name == _STATE:
                    n_bytes = member.size
                else:
                    small[member.name] = content.read(_MAX_SMALL_BYTES)
                sums[member.name] = _sum(content, small.get(member.name, b""))
        while unpacked.read(_PIECE_BYTES):
            pass  # to the end, where the checksum of all stands
    if set(sums) != set(_MEMBERS):
        raise InputError(f"{path}: this is no backup of Vault, or only a part of one")
    if _told(small[_SUMS]) != {name: sums[name] for name in (_META, _STATE)}:
        raise InputError(f"{path}: this backup of Vault is damaged: its checksums do not fit")
    return SnapshotFacts(_index(small[_META], path), n_bytes)


def _sum(content: IO[bytes], begin: bytes) -> str:
    digest = hashlib.sha256(begin)
    while piece := content.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _told(sums: bytes) -> dict[str, str]:
    """Return the sums that the snapshot was written with, by member."""
    pairs = (line.split() for line in sums.decode("ascii", "replace").splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == len(("sum", "name"))}


def _index(meta: bytes, path: Path) -> int:
    try:
        index = json.loads(meta)["Index"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: this backup of Vault does not say from when it is") from error
    if not isinstance(index, int):
        raise InputError(f"{path}: this backup of Vault does not say from when it is")
    return index
