"""failures - what went wrong with a request to Vault in, an error of ours out, without its body.

The exceptions of hvac and requests carry the request, with token and key, or
the answer. So they are never chained: `explain` reads what may be told.
"""

import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from hvac import exceptions

from kme.errors import ConflictError, InputError, KmeError, StoreUnavailableError
from kme.vault.client import VaultAccess

FAILURES: Final = (exceptions.VaultError, requests.RequestException)
"""What requests to Vault end in if not in an answer."""

_MISMATCH: Final = "check-and-set parameter did not match"
_NOT_READY: Final = "from non-versioned to versioned"
_DEAD: Final = "invalid token"


def says_token_is_dead(error: Exception) -> bool:
    """Return whether Vault refused because it does not know the token (any more)."""
    return isinstance(error, exceptions.Forbidden) and _DEAD in _words(error)


def says_not_ready(error: Exception) -> bool:
    """Return whether Vault refused because it still prepares a fresh mount."""
    return isinstance(error, exceptions.InvalidRequest) and _NOT_READY in _words(error)


def says_nothing_there(error: exceptions.InvalidPath) -> bool:
    """Return whether a 404 means "no such document", not "no such mount"."""
    return not error.errors


def member_of(answer: object, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return a member of Vault's answer.

    Raises
    ------
    StoreUnavailableError
        If it was not JSON (hvac gives the response itself then) or has no such member.
    """
    if not isinstance(answer, dict) or name not in answer:
        raise StoreUnavailableError("Vault's answer is not understood: is this address Vault's?")
    return answer[name]


def explain(error: Exception, access: VaultAccess) -> KmeError:
    """Return the error to raise instead of one of `FAILURES`; it holds nothing of the request.

    Returns
    -------
    KmeError
        `ConflictError` if check-and-set failed, `InputError` if Vault finds the
        request itself wrong, else `StoreUnavailableError`.
    """
    if isinstance(error, exceptions.VaultError):
        return _refused(error, access)
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return InputError("what is to be written to Vault is not JSON")
    return StoreUnavailableError(_unreached(error, access), vault=access.url)


def _refused(error: exceptions.VaultError, access: VaultAccess) -> KmeError:
    path, words = _path(error), _words(error)
    if isinstance(error, exceptions.InvalidRequest):
        if _MISMATCH in words:
            return ConflictError(f"somebody else wrote {path} first")
        if _NOT_READY not in words:
            return InputError(f"Vault refuses the request to {path}: {words}")
    return StoreUnavailableError(_advice(error, path, words, access), vault=access.url)


def _advice(error: exceptions.VaultError, path: str, words: str, access: VaultAccess) -> str:
    advice = f"Vault cannot serve {path} now: {words}"
    match error:
        case exceptions.VaultDown() if "sealed" in words:
            advice = "Vault is sealed: unseal it, or see why the unsealer does not"
        case exceptions.VaultNotInitialized():
            advice = "Vault is not initialised: run vault_init"
        case exceptions.Forbidden() | exceptions.Unauthorized() if access.role is None:
            advice = f"Vault does not allow {path} without a login"
        case exceptions.Forbidden() | exceptions.Unauthorized():
            advice = f"Vault's policy for role {access.role} does not allow {path}"
        case exceptions.InvalidPath():
            advice = f"Vault has nothing at {path}: is it set up? Run vault_init"
        case exceptions.RateLimitExceeded():
            advice = "Vault is asked too often now: wait"
    return advice


def _unreached(error: Exception, access: VaultAccess) -> str:
    tls = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"Vault's certificate at {access.url} is refused: {tls.verify_message}"
    alert: str = getattr(tls, "reason", None) or ""
    if "ALERT" in alert:
        return (
            f"Vault refuses the certificate {access.credential.certificate}: "
            f"{alert.replace('_', ' ').lower()}"
        )
    if isinstance(tls, ssl.SSLEOFError):
        return (
            f"Vault at {access.url} broke off: is it running, and does it trust the certificate "
            f"{access.credential.certificate}?"
        )
    if isinstance(error, requests.Timeout):
        return f"Vault at {access.url} did not answer within {access.timeout_s:g} s"
    if isinstance(error, requests.TooManyRedirects):
        return f"Vault at {access.url} points to another address: it is no active node"
    return f"Vault at {access.url} cannot be reached: is it running? ({_reason(error)})"


def _reason(error: Exception) -> str:
    """Return the innermost cause in the system's words, never an address with its content."""
    causes = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    return str(causes[-1].strerror) if causes else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that stand behind it, urllib3's kept in arguments among them."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None)]
            waiting += found.args


def _words(error: exceptions.VaultError) -> str:
    """Return Vault's own words in one line."""
    return " ".join(" ".join(error.errors or ()).split()) or "no reason given"


def _path(error: exceptions.VaultError) -> str:
    """Return which path was asked for, as policies write it."""
    return urlsplit(error.url or "").path.removeprefix("/v1/") or "an unknown path"
