"""grantdocs - a grant as a document: who may have the key, who had it, and the key till then."""

from collections.abc import Mapping
from typing import Any, Final

from kme.encoding import encode_fields
from kme.errors import IdentifierError, IntegrityError
from kme.ids import KeyId, KmeId, SaeId
from kme.store.grants import KeptGrant
from kme.store.vault.keydocs import KeyDocs, check_digest, key_in

FOLDER: Final = "grants"


def grant_path(peer: KmeId, key_id: KeyId) -> str:
    """Return where a grant lies: beside those of its block, so that old ones stand together."""
    return f"{FOLDER}/{peer}/{key_id.block_number}/{key_id}"


def of_grant(keydocs: KeyDocs, peer: KmeId, key_id: KeyId, kept: KeptGrant) -> dict[str, Any]:
    """Return the document of a grant; without bytes once nobody waits for them."""
    return {
        **({} if kept.key is None else {"key": kept.key.to_base64()}),
        "digest": _digest(keydocs, peer, key_id, kept),
        "master": kept.master,
        "slaves": list(kept.slaves),
        "waiting": list(kept.waiting),
        "proof": kept.proof.hex(),
        "due_unix_s": kept.due_unix_s,
    }


def to_grant(keydocs: KeyDocs, peer: KmeId, key_id: KeyId, data: Mapping[str, Any]) -> KeptGrant:
    """Read the document of a grant.

    Raises
    ------
    IntegrityError
        If it is none, or its digest is wrong.
    """
    path = grant_path(peer, key_id)
    try:
        waiting = tuple(SaeId(name) for name in data["waiting"])
        kept = KeptGrant(
            SaeId(data["master"]),
            tuple(SaeId(name) for name in data["slaves"]),
            bytes.fromhex(data["proof"]),
            float(data["due_unix_s"]),
            waiting,
            key_in(path, data) if waiting else None,
        )
    except (KeyError, TypeError, ValueError, IdentifierError) as error:
        raise IntegrityError(f"{path}: this is no grant") from error
    check_digest(path, data, _digest(keydocs, peer, key_id, kept))
    return kept


def _digest(keydocs: KeyDocs, peer: KmeId, key_id: KeyId, kept: KeptGrant) -> str:
    return keydocs.digest(
        b"grant",
        peer.encode(),
        str(key_id).encode(),
        kept.master.encode(),
        encode_fields(*(slave.encode() for slave in kept.slaves)),
        encode_fields(*(slave.encode() for slave in kept.waiting)),
        kept.proof,
        repr(kept.due_unix_s).encode(),
        b"" if kept.key is None else kept.key.reveal(),
    )
