"""initialise - an empty Vault in, an initialised one and its shares in two files out."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import hvac
from hvac.exceptions import InvalidRequest

from kme.bootstrap.access import BootstrapError
from kme.bootstrap.places import Places
from kme.bootstrap.shares import OFFLINE_MODE, UNSEALER_MODE, Found, judge, write_shares
from kme.errors import IntegrityError
from kme.files import sync_directory, write_whole
from kme.secret import Secret

_logger = logging.getLogger(__name__)

_MARKER_MODE: Final = 0o600


class HalfInitialisedError(IntegrityError):
    """Vault was initialised and its shares were lost; nothing was ever stored in it."""

    code = "half_initialised"


@dataclass(frozen=True, slots=True)
class Sharing:
    """How Vault's unseal key is shared out.

    Parameters
    ----------
    n_shares
        How many shares there are.
    threshold
        How many of them unseal.
    """

    n_shares: int
    threshold: int


def initialise(client: hvac.Client, places: Places, sharing: Sharing) -> None:
    """Initialise an empty Vault and keep its shares; one of ours is left as it is.

    Raises
    ------
    HalfInitialisedError
        If Vault's volume must be made anew before the next run.
    BootstrapError
        If it is somebody else's, or the shares here are of another.
    """
    is_initialised: bool = client.sys.is_initialized()
    is_marked = places.initialising.exists()
    files = [places.unsealer_shares]
    if not is_initialised:
        files.append(places.offline_shares)
    found = judge(
        is_initialised=is_initialised,
        is_marked=is_marked,
        has_shares=any(path.exists() for path in files),
    )
    _require_ours(found, places)
    if found is Found.EMPTY:
        write_whole(places.initialising, b"", _MARKER_MODE)
        _keep(_ask_for_shares(client, places, sharing, is_marked=is_marked), places, sharing)
        _logger.info("vault_initialised", extra=asdict(sharing))
    if places.initialising.exists():
        places.initialising.unlink()
        sync_directory(places.state)


def _ask_for_shares(
    client: hvac.Client, places: Places, sharing: Sharing, *, is_marked: bool
) -> list[str]:
    try:
        answer = client.sys.initialize(sharing.n_shares, sharing.threshold)
    except InvalidRequest:
        # What a run that died had asked for may have been done only now.
        if is_marked and client.sys.is_initialized():
            _require_ours(Found.HALF, places)
        raise
    shares: list[str] = answer["keys_base64"]
    return shares


def _require_ours(found: Found, places: Places) -> None:
    if found is Found.HALF:
        raise HalfInitialisedError(
            "Vault was initialised by a run that died before it could write the unseal shares. "
            "It was never unsealed, so nothing is stored in it: remove its data volume and run "
            "this again"
        )
    if found is Found.FOREIGN_VAULT:
        raise BootstrapError(
            f"Vault is initialised and its unseal shares are not in {places.unsealer_shares}: "
            "somebody else initialised it, or the file was lost. Put the file back, or begin "
            "anew with `make clean`, which removes every key",
        )
    if found is Found.FOREIGN_SHARES:
        raise BootstrapError(
            f"Vault is empty, and {places.unsealer_shares.parent} or "
            f"{places.offline_shares.parent} hold the unseal shares of another: is the right "
            "data volume mounted? To begin anew, use `make clean`, which removes both",
        )


def _keep(keys: Sequence[str], places: Places, sharing: Sharing) -> None:
    """Write the shares; the unsealer's file last, because it says that all were written."""
    shares = [Secret(base64.b64decode(key)) for key in keys]
    if offline := shares[sharing.threshold :]:
        write_shares(places.offline_shares, offline, OFFLINE_MODE)
    write_shares(places.unsealer_shares, shares[: sharing.threshold], UNSEALER_MODE)


def remind_of_shares(places: Places) -> None:
    """Say that the offline shares still lie beside the others, if they do."""
    if places.offline_shares.exists():
        _logger.warning(
            "offline_shares_are_still_here",
            extra={
                "file": str(places.offline_shares),
                "do": "take them to safe places, apart from each other, and remove the file",
            },
        )
