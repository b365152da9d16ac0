"""granted - what is kept of grants in, the bytes that one SAE may take now out."""

from collections.abc import Mapping

from kme.errors import KeyNotFoundError, NotEntitledError
from kme.ids import KeyId, SaeId
from kme.secret import Secret
from kme.store.grants import KeptGrant


def granted(
    kept: Mapping[KeyId, KeptGrant], caller: tuple[SaeId, SaeId], now_unix_s: float
) -> dict[KeyId, Secret]:
    """Return the bytes of grants that an SAE may take.

    Parameters
    ----------
    kept
        What is kept of the keys that it asks for.
    caller
        The master that it names, and itself.
    now_unix_s
        Grants that were due at this time are gone.

    Raises
    ------
    NotEntitledError
        If one is for other SAEs of this KME only.
    KeyNotFoundError
        If it has taken one already.
    """
    master, slave = caller
    found: dict[KeyId, Secret] = {}
    for key_id, one in kept.items():
        if one.master != master or one.due_unix_s <= now_unix_s:
            continue
        if slave in one.waiting and one.key is not None:
            found[key_id] = one.key
        elif slave in one.slaves:
            raise KeyNotFoundError("a granted key was given out before")
        else:
            raise NotEntitledError("one or more keys belong to another SAE")
    return found
