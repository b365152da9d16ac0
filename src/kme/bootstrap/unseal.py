"""unseal - a sealed Vault and a file of shares in, an unsealed one out, after every restart.

It holds no token and logs in to nothing: seal status and unsealing ask for no
more than a connection that Vault's listener lets in.
"""

import http.client
import json
import logging
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kme.bootstrap.access import VaultAddress
from kme.bootstrap.shares import read_shares
from kme.errors import KmeError, SettingsError, StoreUnavailableError, UnavailableError
from kme.pki.tls import client_context
from kme.secret import Secret

_logger = logging.getLogger(__name__)

_MAX_ANSWER_BYTES: Final = 1 << 16
_DEFAULT_PORT: Final = 8200


class SealApi:
    """The two paths of Vault that concern its seal, over one connection that is kept.

    Parameters
    ----------
    address
        Where Vault is. The certificate is read anew with each connection.
    timeout_s
        Longest wait for an answer.
    """

    def __init__(self, address: VaultAddress, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPSConnection | None = None

    def status(self) -> dict[str, Any]:
        """Return whether Vault is initialised and sealed, and how far unsealing is.

        Raises
        ------
        CredentialError
            If our certificate cannot be used.
        StoreUnavailableError
            If Vault does not answer.
        """
        return self._ask("GET", "/v1/sys/seal-status", None)

    def unseal(self, body: dict[str, object]) -> dict[str, Any]:
        """Submit one share (``key``), or forget those that were submitted (``reset``).

        Raises
        ------
        UnavailableError
            If Vault refuses or does not answer.
        """
        return self._ask("PUT", "/v1/sys/unseal", body)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, method: str, path: str, body: dict[str, object] | None) -> dict[str, Any]:
        try:
            connection = self._connection = self._connection or self._connect()
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            data = answer.read(_MAX_ANSWER_BYTES)
            if answer.status != http.client.OK:
                self.close()
                raise UnavailableError(f"Vault answers {answer.status} to {method} {path}")
            found: dict[str, Any] = json.loads(data)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise StoreUnavailableError(
                f"Vault does not answer at {self._address.url}: {_words(error)}"
            ) from error
        return found

    def _connect(self) -> http.client.HTTPSConnection:
        parts = urlsplit(self._address.url)
        context = client_context(self._address.credential, self._address.ca)
        return http.client.HTTPSConnection(
            parts.hostname or "",
            parts.port or _DEFAULT_PORT,
            timeout=self._timeout_s,
            context=context,
        )


class Seen(StrEnum):
    """What a look at Vault's seal showed."""

    UNSEALED = "Vault is unsealed"
    NOT_INITIALISED = "Vault is not initialised: waiting for vault_init"
    NOT_UNSEALED = "Vault is sealed and the shares did not unseal it"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the unsealer looks.

    Parameters
    ----------
    look_s
        Between two looks.
    after_failure_s
        After shares that could not be read or did not unseal.
    """

    look_s: float = 1.0
    after_failure_s: float = 10.0


class Unsealer:
    """Keeps one Vault unsealed.

    Parameters
    ----------
    api
        Its seal.
    shares
        File of as many shares as unseal it.
    alive
        File that is touched at every look that finds Vault unsealed.
    pace
        How often it looks.
    """

    def __init__(self, api: SealApi, shares: Path, alive: Path, pace: Pace = Pace()) -> None:
        self._api = api
        self._shares = shares
        self._alive = alive
        self._pace = pace
        self._said = ""

    def run(self) -> None:
        """Look, unseal and look again, for as long as the process lives.

        Raises
        ------
        SettingsError
            If the file cannot be touched.
        """
        while True:
            time.sleep(self.look())

    def look(self) -> float:
        """Look once, and unseal if there is need; return after how many seconds to look again."""
        try:
            status = self._api.status()
        except KmeError as error:
            self._say(error.message, logging.WARNING)
            return self._pace.look_s
        try:
            seen = self._unseal(status)
        except KmeError as error:
            self._say(error.message, logging.ERROR)
            return self._pace.after_failure_s
        if seen is Seen.NOT_UNSEALED:
            self._say(
                f"{seen}: is {self._shares} that of this Vault? An operator can unseal it by hand",
                logging.ERROR,
            )
            return self._pace.after_failure_s
        if seen is Seen.UNSEALED:
            self._touch()
        self._say(seen, logging.INFO)
        return self._pace.look_s

    def _unseal(self, status: dict[str, Any]) -> Seen:
        if not status.get("initialized"):
            return Seen.NOT_INITIALISED
        if not status.get("sealed"):
            return Seen.UNSEALED
        shares = read_shares(self._shares)
        if status.get("progress"):
            self._api.unseal({"reset": True})
        try:
            is_sealed = self._submit(shares)
        except StoreUnavailableError:
            raise
        except UnavailableError:
            return Seen.NOT_UNSEALED  # refused: shares of another Vault, or no shares
        return Seen.NOT_UNSEALED if is_sealed else Seen.UNSEALED

    def _submit(self, shares: Iterable[Secret]) -> bool:
        """Submit shares until Vault is unsealed; return whether it is sealed still."""
        return all(self._api.unseal({"key": share.to_base64()}).get("sealed") for share in shares)

    def _touch(self) -> None:
        try:
            self._alive.touch()
        except OSError as error:
            raise SettingsError(f"{self._alive}: cannot be written: {error.strerror}") from error

    def _say(self, text: str, level: int) -> None:
        """Log what is new; a state that lasts is said once."""
        if text != self._said:
            self._said = text
            _logger.log(level, text)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return str(error) or type(error).__name__
