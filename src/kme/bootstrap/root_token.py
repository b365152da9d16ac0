"""root_token - shares in, a root token for as long as a context lasts, and none after it.

The token lives in this process's memory only. A process that is killed may
leave one alive that nobody knows; the next session finds it by its accessor.
"""

import base64
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidRequest, VaultError

from kme.bootstrap.access import asking, reason
from kme.errors import InputError, IntegrityError
from kme.secret import Secret

_logger = logging.getLogger(__name__)

_ROOT_POLICY: Final = "root"


@contextmanager
def root_session(client: hvac.Client, shares: Sequence[Secret]) -> Iterator[None]:
    """Let `client` do everything while the context lasts.

    Raises
    ------
    InputError
        If the shares are not those of this Vault, or too few.
    StoreUnavailableError, BootstrapError
        If Vault does not answer or refuses.
    IntegrityError
        If a root token is alive after the end.
    """
    with asking("making a root token"):
        client.token = _generate(client, shares)
    try:
        with asking("revoking root tokens that were left over"):
            _revoke_others(client)
        yield
        with asking("looking for root tokens"):
            _require_alone(client)
    except BaseException:
        _revoke_quietly(client)
        raise
    _revoke_surely(client)


def decode_token(encoded: str, otp: str) -> str:
    """Take the one-time pad off a generated root token.

    Examples
    --------
    >>> decode_token("EhEQEw", "abcd")
    'sssw'
    """
    padded = encoded + "=" * (-len(encoded) % 4)
    pairs = zip(base64.b64decode(padded), otp.encode("ascii"), strict=True)
    return bytes(one ^ other for one, other in pairs).decode("ascii")


def _generate(client: hvac.Client, shares: Sequence[Secret]) -> str:
    client.sys.cancel_root_generation()
    attempt = client.sys.start_root_token_generation()
    try:
        for share in shares[: attempt["required"]]:
            answer = client.sys.generate_root(share.to_base64(), attempt["nonce"])
    except InvalidRequest as error:
        client.sys.cancel_root_generation()
        raise InputError("the unseal shares here are not those of this Vault") from error
    if not answer["complete"]:
        client.sys.cancel_root_generation()
        raise InputError(
            f"there are {len(shares)} unseal shares here, this Vault needs {attempt['required']}"
        )
    return decode_token(answer["encoded_root_token"], attempt["otp"])


def _revoke_others(client: hvac.Client) -> None:
    own = client.auth.token.lookup_self()["data"]["accessor"]
    for accessor in _root_accessors(client):
        if accessor != own:
            client.auth.token.revoke_accessor(accessor)
            _logger.info("left_over_root_token_revoked")


def _require_alone(client: hvac.Client) -> None:
    if len(_root_accessors(client)) != 1:
        raise IntegrityError("another root token was made meanwhile: run this again")


def _root_accessors(client: hvac.Client) -> list[str]:
    accessors: list[str] = client.list("auth/token/accessors")["data"]["keys"]
    return [accessor for accessor in accessors if _ROOT_POLICY in _policies(client, accessor)]


def _policies(client: hvac.Client, accessor: str) -> list[str]:
    try:
        found: list[str] = client.auth.token.lookup_accessor(accessor)["data"]["policies"]
    except (Forbidden, InvalidRequest):
        return []  # it ended between the list and this look
    return found


def _revoke_quietly(client: hvac.Client) -> None:
    """Revoke on the way out of a failure, whose error is the one that matters."""
    try:
        client.auth.token.revoke_self()
    except (requests.exceptions.RequestException, VaultError) as error:
        _logger.warning(
            "root_token_not_revoked",
            extra={"reason": reason(error), "do": "run this again: it revokes what was left over"},
        )
    finally:
        client.token = None


def _revoke_surely(client: hvac.Client) -> None:
    with asking("revoking the root token"):
        client.auth.token.revoke_self()
        try:
            client.auth.token.lookup_self()
        except Forbidden:
            return
        finally:
            client.token = None
    raise IntegrityError("Vault still takes the root token that was revoked: seal it, then look")
