"""seal - key bytes under a data key of their own, and that under the master key."""

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kme.errors import SealError
from kme.ids import KmeId
from kme.secret import Secret

_DATA_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_CHECK: Final = b"this master key opens this store"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Key bytes at rest.

    Parameters
    ----------
    data_key
        The data key under the master key; deleting it shreds the bytes.
    key
        The bytes under the data key.
    """

    data_key: bytes
    key: bytes


class Sealer:
    """Seals key bytes with AES-256-GCM (NIST SP 800-38D) and opens them again.

    Each sealing has a fresh data key, and binds where the bytes belong: in
    another row, another table or another KME's store they do not open.

    Parameters
    ----------
    master_key
        32 bytes.
    kme
        Whose store it is.
    """

    def __init__(self, master_key: Secret, kme: KmeId) -> None:
        self._master = AESGCM(master_key.reveal())
        self._kme = kme

    def seal(self, key: Secret, *place: str | int) -> Sealed:
        """Seal bytes for the row that `place` names."""
        bound = self._bind(place)
        data_key = secrets.token_bytes(_DATA_KEY_BYTES)
        return Sealed(
            _encrypt(self._master, data_key, b"data key" + bound),
            _encrypt(AESGCM(data_key), key.reveal(), b"key" + bound),
        )

    def open(self, sealed: Sealed, *place: str | int) -> Secret:
        """Open bytes of the row that `place` names.

        Raises
        ------
        SealError
            If they were changed, belong elsewhere or to another master key.
        """
        bound = self._bind(place)
        try:
            data_key = _decrypt(self._master, sealed.data_key, b"data key" + bound)
            return Secret(_decrypt(AESGCM(data_key), sealed.key, b"key" + bound))
        except InvalidTag as error:
            raise SealError(
                "sealed key bytes do not open: the store was changed from outside",
                place="/".join(str(part) for part in place),
            ) from error

    def check_value(self) -> bytes:
        """Return what tells this master key from another one, to be stored."""
        return _encrypt(self._master, _CHECK, b"check" + self._bind(()))

    def is_mine(self, check_value: object) -> bool:
        """Return whether a stored check value was made with this master key."""
        try:
            return _decrypt(self._master, check_value, b"check" + self._bind(())) == _CHECK
        except InvalidTag:
            return False

    def _bind(self, place: tuple[str | int, ...]) -> bytes:
        """Encode a place; each part has its length before it, so no two places look alike."""
        parts = [str(part).encode() for part in (self._kme, *place)]
        return b"".join(len(part).to_bytes(4) + part for part in parts)


def _encrypt(cipher: AESGCM, data: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, bound)


def _decrypt(cipher: AESGCM, data: object, bound: bytes) -> bytes:
    # An edited row may hold anything.
    if not isinstance(data, bytes) or len(data) < _NONCE_BYTES:
        raise InvalidTag
    return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
