"""first - a Vault that answers in; unsealed, audited, with requests for its three CAs, out."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import hvac

from kme.bootstrap.access import asking, wait_until_active, wait_until_answering
from kme.bootstrap.delivery import sweep_partial_files
from kme.bootstrap.engines import (
    ENGINES,
    audit_step,
    cert_auth_step,
    engine_steps,
    request_path,
)
from kme.bootstrap.initialise import Sharing, initialise
from kme.bootstrap.marker import Marker, digest_of
from kme.bootstrap.places import Places
from kme.bootstrap.root_token import root_session
from kme.bootstrap.shares import read_shares
from kme.bootstrap.steps import run_steps
from kme.errors import InputError
from kme.secret import Secret

_logger = logging.getLogger(__name__)

_WAIT_S: Final = 60.0


def run_first(client: hvac.Client, places: Places, sharing: Sharing, audit: Path) -> None:
    """Initialise, unseal and prepare Vault; what is done already is left as it is.

    Raises
    ------
    HalfInitialisedError
        If Vault's volume must be made anew before the next run.
    KmeError
        If something else must be put right; the message says what.
    """
    sweep_partial_files(places.writable)
    wait_until_answering(client, _WAIT_S)
    with asking("initialising Vault"):
        initialise(client, places, sharing)
    shares = read_shares(places.unsealer_shares)
    unseal(client, shares)
    marker = Marker(places.state / "first")
    if marker.stands_for(_digest(client, places, audit)):
        _logger.info("nothing_to_do", extra={"run": "first"})
        return
    with root_session(client, shares):
        steps = [audit_step(client, audit), cert_auth_step(client)]
        for engine in ENGINES:
            steps += engine_steps(client, engine, places.exchange)
        run_steps(steps)
    marker.write(_digest(client, places, audit))


def unseal(client: hvac.Client, shares: Sequence[Secret]) -> None:
    """Unseal Vault, if it is sealed, and wait until it takes requests.

    Raises
    ------
    InputError
        If these shares do not unseal it.
    """
    with asking("unsealing Vault"):
        if client.sys.read_seal_status()["sealed"]:
            client.sys.submit_unseal_key(reset=True)
            for share in shares:
                if not client.sys.submit_unseal_key(share.to_base64())["sealed"]:
                    break
            else:
                raise InputError("the unseal shares here are too few for this Vault")
            _logger.info("vault_unsealed")
    wait_until_active(client, _WAIT_S)


def cluster_of(client: hvac.Client) -> str:
    """Return the id that an unsealed Vault got when it was initialised."""
    with asking("asking which Vault this is"):
        return str(client.sys.read_seal_status()["cluster_id"])


def _digest(client: hvac.Client, places: Places, audit: Path) -> str:
    requests = [request_path(places.exchange, engine) for engine in ENGINES]
    return digest_of(
        {
            "cluster": cluster_of(client),
            "audit": str(audit),
            "requests": [path.read_text("utf-8") if path.exists() else "" for path in requests],
        }
    )
