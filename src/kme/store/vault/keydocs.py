"""keydocs - key bytes in, documents that an operator can inspect out, and back with a check.

Each carries an HMAC-SHA-256 under the site's digest key over all that it says
and where it belongs. A tombstone, an empty document, overwrites the bytes and
keeps the path taken: what was consumed cannot be written again.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kme.encoding import encode_fields
from kme.errors import IntegrityError
from kme.ids import KmeId, SourceId
from kme.secret import Secret
from kme.store import rules
from kme.store.records import FinalKey, FinalKeyRef, KeyBlock, SourceClass

TOMBSTONE: Final[Mapping[str, Any]] = {}


def entry_path(peer: KmeId, ref: FinalKeyRef) -> str:
    """Return where a final key lies."""
    return f"inbox/{peer}/{ref.source}/{ref.epoch.file_name}-{ref.part}"


def block_path(peer: KmeId, number: int) -> str:
    """Return where a block lies."""
    return f"blocks/{peer}/{number}"


def is_drawn_here(kme: KmeId, peer: KmeId, about: Mapping[str, Any]) -> bool:
    """Return whether keys of a block are drawn here, by what a document tells about it."""
    return "owner" not in about or rules.is_drawn_here(kme, peer, about["owner"])


@dataclass(frozen=True, slots=True)
class KeyDocs:
    """Makes and reads the documents that hold key bytes.

    Parameters
    ----------
    kme
        Whose they are.
    digest_key
        32 bytes, the site's.
    """

    kme: KmeId
    digest_key: Secret

    def of_entry(self, peer: KmeId, ref: FinalKeyRef, key: Secret) -> dict[str, Any]:
        """Return the document of a final key."""
        return {
            "key": key.to_base64(),
            "digest": self._entry_digest(peer, ref, key),
            "bytes": len(key),
            "epoch": ref.epoch.file_name,
            "part": ref.part,
        }

    def to_entry(self, peer: KmeId, ref: FinalKeyRef, data: Mapping[str, Any]) -> FinalKey | None:
        """Read the document of a final key; None if it is a tombstone.

        Raises
        ------
        IntegrityError
            If its digest is wrong.
        """
        if not data:
            return None
        path = entry_path(peer, ref)
        key = key_in(path, data)
        check_digest(path, data, self._entry_digest(peer, ref, key))
        return FinalKey(ref, key)

    def of_block(self, peer: KmeId, block: KeyBlock) -> dict[str, Any]:
        """Return the document of a block."""
        return {"key": block.key.to_base64(), **self.about(peer, block)}

    def about(self, peer: KmeId, block: KeyBlock) -> dict[str, Any]:
        """Return what may be told about a block."""
        return {
            "digest": self._block_digest(peer, block),
            "bytes": block.n_bytes,
            "owner": block.owner,
            "source": block.source,
            "source_class": block.source_class.value,
            "lifetime_s": block.lifetime_s,
        }

    def to_block(self, peer: KmeId, number: int, data: Mapping[str, Any]) -> KeyBlock | None:
        """Read the document of a block; None if it is a tombstone.

        Raises
        ------
        IntegrityError
            If its digest is wrong.
        """
        if not data:
            return None
        path = block_path(peer, number)
        try:
            block = KeyBlock(
                number=number,
                owner=KmeId(data["owner"]),
                source=SourceId(data["source"]),
                source_class=SourceClass(data["source_class"]),
                lifetime_s=int(data["lifetime_s"]),
                key=key_in(path, data),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path}: this is no key block") from error
        check_digest(path, data, self._block_digest(peer, block))
        return block

    def _entry_digest(self, peer: KmeId, ref: FinalKeyRef, key: Secret) -> str:
        return self.digest(
            b"final key",
            peer.encode(),
            ref.source.encode(),
            str(ref.epoch.number).encode(),
            str(ref.part).encode(),
            str(len(key)).encode(),
            key.reveal(),
        )

    def _block_digest(self, peer: KmeId, block: KeyBlock) -> str:
        return self.digest(
            b"key block",
            peer.encode(),
            str(block.number).encode(),
            block.owner.encode(),
            block.source.encode(),
            block.source_class.encode(),
            str(block.lifetime_s).encode(),
            block.key.reveal(),
        )

    def digest(self, what: bytes, *fields: bytes) -> str:
        """Return the digest of what a document of this kind says."""
        told = encode_fields(what, self.kme.encode(), *fields)
        return hmac.new(self.digest_key.reveal(), told, hashlib.sha256).hexdigest()


def key_in(path: str, data: Mapping[str, Any]) -> Secret:
    """Return the key bytes that a document holds.

    Raises
    ------
    IntegrityError
        If it holds none.
    """
    try:
        return Secret(base64.b64decode(data["key"], validate=True))
    except (KeyError, TypeError, binascii.Error):
        # Not chained: the cause may quote what was read.
        raise IntegrityError(f"{path}: this document holds no key") from None


def check_digest(path: str, data: Mapping[str, Any], digest: str) -> None:
    """Return if a document's digest is this one.

    Raises
    ------
    IntegrityError
        If it isn't.
    """
    said = data.get("digest")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), digest.encode()):
        raise IntegrityError(
            f"{path}: the digest does not fit: it was changed, or belongs to another place or site"
        )
