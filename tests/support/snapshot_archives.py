"""snapshot_archives - archives in the form of Vault's snapshots, whole ones and others."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

INDEX = 4711
STATE = bytes(range(256)) * 9000


def members(state: bytes = STATE, meta: bytes | None = None) -> dict[str, bytes]:
    """Return what stands in a snapshot, by name."""
    if meta is None:
        meta = json.dumps({"Index": INDEX, "Term": 3, "Size": len(state)}).encode() + b"\n"
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in {"meta.json": meta, "state.bin": state}.items()
    )
    return {
        "meta.json": meta,
        "state.bin": state,
        "SHA256SUMS": sums.encode(),
        "SHA256SUMS.sealed": b"sealed",
    }


def write_archive(path: Path, content: Mapping[str, bytes]) -> Path:
    """Write an archive of these members, and return where."""
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
