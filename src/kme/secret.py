"""secret - bytes that do not print, compare in constant time and can be wiped."""

import base64
import hmac
from typing import Final, NoReturn, SupportsIndex

_WIPED: Final = "this secret was wiped"


class Secret:
    """Key material, from the epoch file to the response body.

    `repr` and `str` show the length only; equality takes constant time; it
    neither hashes nor pickles. Wiping is best effort: Python may have copied
    the bytes before (slices, `reveal`, buffers of libraries), and such copies
    are out of reach.

    Parameters
    ----------
    value
        The bytes; they are copied.

    Examples
    --------
    >>> key = Secret(b"0123")
    >>> key
    Secret(4 bytes)
    >>> key == Secret(b"0123")
    True
    """

    __slots__ = ("_bytes", "_is_wiped")

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._bytes = bytearray(value)
        self._is_wiped = False

    def reveal(self) -> bytes:
        """Return the bytes themselves, for cryptography and response bodies only.

        Raises
        ------
        ValueError
            If the secret was wiped.
        """
        self._check()
        return bytes(self._bytes)

    def to_base64(self) -> str:
        """Return the bytes in base64 as RFC 4648 section 4 says, padded."""
        self._check()
        return base64.b64encode(self._bytes).decode("ascii")

    def __getitem__(self, part: slice) -> "Secret":
        """Return a part as a secret of its own."""
        self._check()
        return Secret(self._bytes[part])

    def __len__(self) -> int:
        return len(self._bytes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        self._check()
        other._check()
        return hmac.compare_digest(self._bytes, other._bytes)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret({'wiped' if self._is_wiped else f'{len(self._bytes)} bytes'})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        msg = "a secret is not pickled"
        raise TypeError(msg)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros and refuse them from now on."""
        self._bytes[:] = bytes(len(self._bytes))
        self._is_wiped = True

    def _check(self) -> None:
        if self._is_wiped:
            raise ValueError(_WIPED)

    @classmethod
    def join(cls, parts: "list[Secret]") -> "Secret":
        """Return the parts one after another as one secret."""
        return cls(b"".join(part.reveal() for part in parts))
