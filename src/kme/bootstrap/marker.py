"""marker - a file that remembers for which inputs a run was completed."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kme.files import write_whole

_MODE: Final = 0o640


@dataclass(frozen=True, slots=True)
class Marker:
    """Says that a run was completed; another input, and it says nothing.

    Parameters
    ----------
    path
        Its file.
    """

    path: Path

    def stands_for(self, digest: str) -> bool:
        """Return whether a run with these inputs was completed."""
        try:
            return self.path.read_text(encoding="ascii").strip() == digest
        except (OSError, UnicodeDecodeError):
            return False

    def write(self, digest: str) -> None:
        """Remember that a run with these inputs was completed.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        write_whole(self.path, f"{digest}\n".encode("ascii"), _MODE)


def digest_of(inputs: object) -> str:
    """Return the SHA-256 of values that JSON can hold, in hexadecimal digits."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
