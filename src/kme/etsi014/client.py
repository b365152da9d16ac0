"""client - for SAEs and tests: a request to a KME out, keys or an exception back."""

import base64
import binascii
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import httpx

from kme.errors import (
    HandshakeError,
    IdentityError,
    IntegrityError,
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    OutOfKeysError,
    PeerUnavailableError,
    RequestError,
    RequestFieldError,
    StoreUnavailableError,
    UnavailableError,
)
from kme.etsi014.messages import (
    Body,
    Error,
    KeyContainer,
    KeyEntry,
    KeyIdEntry,
    KeyIds,
    KeyRequest,
    Status,
)
from kme.etsi014.problems import CODE_MEMBER, KEYS_NOT_FOUND, MEDIA_TYPE
from kme.ids import KmeId, SaeId
from kme.pki.bundle import CredentialFiles
from kme.pki.identity import KME_PREFIX
from kme.pki.tls import client_context, explain
from kme.secret import Secret

_Answer = TypeVar("_Answer", bound=Body)

_BY_CODE: Final[dict[str, type[KmeError]]] = {
    "key_not_found": KeyNotFoundError,
    "identity": IdentityError,
    "not_entitled": NotEntitledError,
    "request": RequestError,
    "out_of_keys": OutOfKeysError,
    "peer_unavailable": PeerUnavailableError,
    "store_unavailable": StoreUnavailableError,
}
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """A key as a KME delivered it.

    Parameters
    ----------
    key_id
        By this the other SAE asks for it.
    key
        The key.
    """

    key_id: str
    key: Secret


@asynccontextmanager
async def open_client(
    url: str,
    own: CredentialFiles,
    trusted: Path,
    kme: KmeId,
    timeout_s: float = _TIMEOUT_S,
) -> AsyncIterator["Sae014Client"]:
    """Connect an SAE to its KME for as long as the context lasts.

    Parameters
    ----------
    url
        ``https://host:port`` of the KME.
    own
        The SAE's certificate and key.
    trusted
        The authority that issued the KME's certificate, PEM.
    kme
        Who the KME must be; another one gets no request (clause 5.1).
    timeout_s
        For each step of a request.

    Raises
    ------
    CredentialError
        If a file cannot be used.
    """
    context = client_context(own, trusted, KME_PREFIX + kme)
    async with httpx.AsyncClient(
        base_url=url, verify=context, timeout=timeout_s, trust_env=False, follow_redirects=False
    ) as http:
        yield Sae014Client(http)


class Sae014Client:
    """The three methods of ETSI GS QKD 014 as an SAE sees them.

    Parameters
    ----------
    http
        Speaks to one KME; see `open_client`.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def status(self, slave: SaeId) -> Status:
        """Ask what may be had for this SAE and a slave SAE.

        Raises
        ------
        IdentityError
            If the KME doesn't accept our certificate, or isn't who it should be.
        RequestError
            If it doesn't know the slave.
        UnavailableError
            If it doesn't answer, or not now.
        """
        return await self._ask("GET", slave, "status", Status)

    async def enc_keys(
        self,
        slave: SaeId,
        number: int = 1,
        size_bits: int | None = None,
        more_slaves: Sequence[SaeId] = (),
    ) -> list[DeliveredKey]:
        """Get fresh keys to share with a slave SAE, and with more of them.

        Raises
        ------
        IdentityError, RequestError, UnavailableError
            As `status`; `OutOfKeysError` is one of the latter.
        IntegrityError
            If the KME answers with other than `number` keys.
        """
        request = KeyRequest(
            number=number,
            size=size_bits,
            additional_slave_sae_ids=[str(sae) for sae in more_slaves] or None,
        )
        container = await self._ask("POST", slave, "enc_keys", KeyContainer, request)
        if len(container.keys) != number:
            raise IntegrityError(f"the KME sent {len(container.keys)} keys instead of {number}")
        return [_delivered(entry) for entry in container.keys]

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Get the keys that a master SAE was given, in the order of their ids.

        Raises
        ------
        KeyNotFoundError
            If at least one isn't there, or was delivered before.
        NotEntitledError
            If at least one is another SAE's.
        IdentityError, RequestError, UnavailableError
            As `status`.
        IntegrityError
            If the KME answers with other keys than these.
        """
        request = KeyIds(key_ids=[KeyIdEntry(key_id=key_id) for key_id in key_ids])
        container = await self._ask("POST", master, "dec_keys", KeyContainer, request)
        if [entry.key_id.lower() for entry in container.keys] != [k.lower() for k in key_ids]:
            raise IntegrityError("the KME sent other keys than it was asked for")
        return [_delivered(entry) for entry in container.keys]

    async def _ask(
        self,
        verb: str,
        sae: SaeId,
        method: str,
        answer: type[_Answer],
        body: Body | None = None,
    ) -> _Answer:
        path = f"/api/v1/keys/{quote(sae, safe='')}/{method}"
        content = None if body is None else body.to_json()
        headers = {} if content is None else {"Content-Type": MEDIA_TYPE}
        try:
            response = await self._http.request(verb, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise _transport_error(self._http.base_url, error) from error
        if response.status_code != HTTPStatus.OK:
            raise _refusal(response)
        try:
            return answer.parse(response.content)
        except RequestFieldError as error:
            raise IntegrityError(f"the KME's answer is not a valid {answer.__name__}") from error


def _delivered(entry: KeyEntry) -> DeliveredKey:
    try:
        return DeliveredKey(entry.key_id, Secret(base64.b64decode(entry.key, validate=True)))
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("the KME sent a key that is not base64") from error


def _transport_error(url: httpx.URL, error: httpx.TransportError) -> KmeError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return HandshakeError(f"{url}: no TLS connection: {explain(cause)}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return UnavailableError(
            f"{url}: the connection was closed without an answer; perhaps this certificate is "
            "not accepted there: see the KME's log"
        )
    return UnavailableError(f"{url}: the KME does not answer: {str(error) or type(error).__name__}")


def _refusal(response: httpx.Response) -> KmeError:
    """Return what an Error body says as an exception; other vendors send no ``kme_error``."""
    status = response.status_code
    try:
        error = Error.parse(response.content)
    except RequestFieldError:
        error = Error(message=f"the KME answered with status {status}")
    for detail in error.details or ():
        by_code = _BY_CODE.get(str(detail.get(CODE_MEMBER)))
        if by_code is not None:
            return by_code(error.message)
    if error.message == KEYS_NOT_FOUND:
        return KeyNotFoundError(error.message)
    if status == HTTPStatus.UNAUTHORIZED:
        is_about_keys = response.request.url.path.endswith("/dec_keys")
        return (NotEntitledError if is_about_keys else IdentityError)(error.message)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UnavailableError(error.message)
    return RequestError(error.message)
