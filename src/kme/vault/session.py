"""session - calls from an event loop to Vault: in threads, logged in by certificate, never retried.

Exactly two answers are surely those of a request that was not executed, and
make it be sent again: a token that Vault does not know (after a new login,
once), and a mount that Vault still prepares (a bounded number of times).
"""

import asyncio
import concurrent.futures
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import hvac
from hvac import exceptions

from kme.errors import CredentialError, KmeError, StoreUnavailableError
from kme.vault.client import VaultAccess, connect
from kme.vault.failures import FAILURES, explain, says_not_ready, says_token_is_dead
from kme.vault.login import Login, log_in

__all__ = ["VaultAccess", "VaultSession"]

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_LOGIN_AGAIN_S: Final = 10.0
"""Pause after a login in the background that failed; calls don't wait for it."""

_READY_TRIES: Final = 20
_READY_PAUSE_S: Final = 0.25


class VaultSession:
    """Everything that one process asks of Vault goes through here.

    Each thread has one connection of its own. A new login is made when two
    thirds of the token's life are over, and whenever Vault does not know the
    token; it reads the certificate files again, so that renewed ones are taken
    up without a restart. After an outage the next call simply works.

    Parameters
    ----------
    access
        Where Vault is and who we are.
    n_threads
        So many requests may be under way at the same time.
    """

    def __init__(self, access: VaultAccess, n_threads: int = 8) -> None:
        self.access = access
        self._threads = concurrent.futures.ThreadPoolExecutor(n_threads, "vault")
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._login: Login | None = None
        self._login_lock = threading.Lock()
        self._own = threading.local()
        self._clients: set[hvac.Client] = set()
        self._renewal: asyncio.Task[None] | None = None
        self._is_closing = False

    # In the event loop

    async def open(self) -> None:
        """Log in; from now on calls are served.

        Raises
        ------
        CredentialError
            If a certificate file cannot be used.
        StoreUnavailableError
            If Vault cannot be reached, is sealed or refuses the login.
        """
        await self._in_thread(lambda: self._log_in(None))
        self._renewal = asyncio.create_task(self._renew())

    async def call(self, act: Callable[[hvac.Client], _T]) -> _T:
        """Run one request in a thread and return what it gave.

        If this is cancelled, the request may go on: its outcome is unknown.

        Parameters
        ----------
        act
            Makes one request; it runs again if that request was surely not
            executed. It must keep nothing of the client.

        Raises
        ------
        ConflictError
            If check-and-set failed: surely not written.
        InputError
            If Vault finds the request itself wrong: surely not executed.
        StoreUnavailableError
            Everything else. A write that ends so may have happened.
        """
        if self._is_closing or self._login is None:
            raise StoreUnavailableError("the session with Vault is not open")
        latest = time.monotonic() + self.access.timeout_s
        return await self._in_thread(lambda: self._serve(act, latest))

    async def close(self) -> None:
        """Let calls under way end (not for ever), give the token back, end the threads."""
        self._is_closing = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
        if self._calls:
            await asyncio.to_thread(
                concurrent.futures.wait, set(self._calls), 2 * self.access.timeout_s
            )
        login, self._login = self._login, None
        if login is not None and login.token is not None:
            await self._in_thread(lambda: self._give_back(login))
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._clients:
            self._clients.pop().adapter.close()

    async def _renew(self) -> None:
        """Log in again and again, each time before the token dies."""
        while True:
            login = self._login
            if login is None:
                return
            await asyncio.sleep(max(0.0, login.due - time.monotonic()))
            try:
                await self._in_thread(functools.partial(self._log_in, login))
            except KmeError as error:
                _logger.warning("cannot log in to Vault again", extra={"reason": error.message})
                await asyncio.sleep(_LOGIN_AGAIN_S)

    async def _in_thread(self, act: Callable[[], _T]) -> _T:
        call = self._threads.submit(act)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(call)

    # In the threads

    def _serve(self, act: Callable[[hvac.Client], _T], latest: float) -> _T:
        """Make one request, and once more under a new login if the token was dead."""
        login = self._login
        if login is None:
            raise StoreUnavailableError("the session with Vault is closed")
        if time.monotonic() > latest:
            raise StoreUnavailableError("too many calls wait for Vault; this one was not begun")
        try:
            return _once_ready(act, self._client(login))
        except FAILURES as error:
            failure = explain(error, self.access)
            is_dead = login.token is not None and says_token_is_dead(error)
        # Raised out here, so that nothing chains to the exception that holds the request.
        if not is_dead:
            raise failure
        login = self._log_in_for_call(login)
        try:
            return _once_ready(act, self._client(login))
        except FAILURES as error:
            failure = explain(error, self.access)
        raise failure

    def _client(self, login: Login) -> hvac.Client:
        """Return this thread's client, a new one after each login."""
        held: tuple[Login, hvac.Client] | None = getattr(self._own, "held", None)
        if held is not None and held[0] is login:
            return held[1]
        if held is not None:
            self._clients.discard(held[1])
            held[1].adapter.close()
        client = connect(self.access, login.token, login.context)
        self._clients.add(client)
        self._own.held = login, client
        return client

    def _log_in_for_call(self, stale: Login) -> Login:
        try:
            return self._log_in(stale)
        except CredentialError as error:
            raise StoreUnavailableError(f"cannot log in to Vault: {error.message}") from error

    def _log_in(self, stale: Login | None) -> Login:
        """Return a login newer than `stale`; if another thread was quicker, that one's."""
        with self._login_lock:
            current = self._login
            if current is None or current is stale:
                current = self._login = log_in(self.access)
            return current

    def _give_back(self, login: Login) -> None:
        """Revoke the token; if that cannot be, it dies by itself soon."""
        try:
            self._client(login).auth.token.revoke_self()
        except FAILURES as error:
            _logger.debug("token not revoked", extra={"reason": type(error).__name__})


def _once_ready(act: Callable[[hvac.Client], _T], client: hvac.Client) -> _T:
    """Make one request, again while Vault refuses it because a mount is not ready yet."""
    for _ in range(_READY_TRIES):
        try:
            return act(client)
        except exceptions.InvalidRequest as error:
            if not says_not_ready(error):
                raise
        time.sleep(_READY_PAUSE_S)
    return act(client)
