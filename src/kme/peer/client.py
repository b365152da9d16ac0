"""client - messages for one peer KME in, its checked answers out, over HTTPS."""

import asyncio
import ssl
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from cryptography import x509
from pydantic import ValidationError

from kme.errors import IdentityError, InputError, PairingError, PeerUnavailableError
from kme.ids import KmeId
from kme.pairing.ports import (
    BlockTag,
    Comparison,
    Heartbeat,
    HeartbeatAnswer,
    PairStock,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.peer.messages import (
    CLEAR_PATH,
    COMPARE_PATH,
    GRANTS_PATH,
    HEARTBEAT_PATH,
    HELD_PATH,
    MAX_BODY_BYTES,
    PROPOSAL_PATH,
    SAES_PATH,
    STOCK_PATH,
    ClearMessage,
    ComparedMessage,
    CompareMessage,
    DoneMessage,
    GrantsMessage,
    HeartbeatAnswerMessage,
    HeartbeatMessage,
    HeldMessage,
    Message,
    ProblemMessage,
    ProposalMessage,
    SaesMessage,
    StockMessage,
    StockQuestionMessage,
    VerdictMessage,
)
from kme.peer.restore_messages import (
    AGREE_RESTORE_PATH,
    ASK_RESTORE_PATH,
    RestoreChallengeMessage,
    RestoreConsentMessage,
    RestoreQuestionMessage,
    RestoreTermsMessage,
)
from kme.pki.identity import KME_PREFIX, uri_identity
from kme.registry.records import SaeList
from kme.store.records import FinalKeyRef, Proposal, Verdict
from kme.supply.grants import Delivery

M = TypeVar("M", bound=Message)

_MAX_CONNECTIONS: Final = 4
_KEEP_ALIVE_S: Final = 30.0
_CLEAR_TIMEOUT_S: Final = 60.0
"""The peer burns all that waits, entry by entry, before it answers."""

_HEADERS: Final = {"content-type": "application/json", "accept-encoding": "identity"}


class HttpPeerLink:
    """The way from one KME to another on a different host.

    It is the `kme.pairing.ports.PeerLink` of pairing, the
    `kme.pairing.ports.OperatorLink` of what operators ask, and the
    `kme.supply.grants.GrantLink` of keys for further slaves. It follows no
    redirect and uses no proxy, and believes an answer only from a server whose
    certificate names the peer.

    Parameters
    ----------
    peer
        Who must answer.
    url
        Where its peer interface is: ``https://host:port``.
    context
        TLS with this KME's certificate, trusting the CA of KMEs.
    timeout_s
        For a whole exchange.
    transport
        Another way there than TLS over TCP, for tests.
    """

    def __init__(
        self,
        peer: KmeId,
        url: str,
        context: ssl.SSLContext,
        timeout_s: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._peer = peer
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=_HEADERS,
            verify=context,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Send a heartbeat."""
        message = HeartbeatMessage.of(heartbeat)
        return (await self._ask(HEARTBEAT_PATH, message, HeartbeatAnswerMessage)).to_answer()

    async def held(self, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        """Ask which of these final keys the peer has in its inbox.

        What it names beyond them is dropped, and the order is that of `refs`.
        """
        answer = await self._ask(HELD_PATH, HeldMessage.of(refs), HeldMessage)
        named = {(key.source, key.epoch, key.part) for key in answer.final_keys}
        return [ref for ref in refs if (ref.source, ref.epoch.number, ref.part) in named]

    async def propose(self, proposal: Proposal) -> Verdict:
        """Send a proposal."""
        message = ProposalMessage.of(proposal)
        return (await self._ask(PROPOSAL_PATH, message, VerdictMessage)).verdict

    async def deliver(self, delivery: Delivery) -> None:
        """Have the peer keep keys for further slaves."""
        await self._ask(GRANTS_PATH, GrantsMessage.of(delivery), DoneMessage)

    async def ask_restore(self, incarnation: str) -> RestoreChallenge:
        """Say that this KME was restored, and ask for a challenge."""
        question = RestoreQuestionMessage(incarnation=incarnation)
        return (await self._ask(ASK_RESTORE_PATH, question, RestoreChallengeMessage)).to_challenge()

    async def agree_restore(self, terms: RestoreTerms) -> RestoreConsent:
        """Have the peer accept the restore."""
        message = RestoreTermsMessage.of(terms)
        answer = await self._ask(
            AGREE_RESTORE_PATH, message, RestoreConsentMessage, _CLEAR_TIMEOUT_S
        )
        if answer.highest < terms.highest:
            raise self._unavailable("did not give up as many blocks as it was asked to")
        try:
            return answer.to_consent()
        except InputError as error:
            raise self._unavailable(f"sent an answer that is none ({error.message})") from error

    async def tell_saes(self, told: SaeList) -> None:
        """Tell which SAEs live at this KME."""
        await self._ask(SAES_PATH, SaesMessage.of(told), DoneMessage)

    async def stock(self, key_bytes: int) -> PairStock:
        """Ask what the peer may allocate, counted in keys of so many bytes."""
        question = StockQuestionMessage(key_bytes=key_bytes)
        return (await self._ask(STOCK_PATH, question, StockMessage)).to_stock()

    async def compare(self, tags: Sequence[BlockTag]) -> list[Comparison]:
        """Ask which blocks have the same bytes there."""
        answer = await self._ask(COMPARE_PATH, CompareMessage.of(tags), ComparedMessage)
        if len(answer.found) != len(tags):
            raise self._unavailable("compared other blocks than it was asked about")
        return answer.found

    async def clear(self, highest: int) -> int:
        """Have the peer drop all keys of the pair."""
        question = ClearMessage(highest=highest)
        answer = await self._ask(CLEAR_PATH, question, ClearMessage, _CLEAR_TIMEOUT_S)
        if answer.highest < highest:
            raise self._unavailable("did not drop as many blocks as it was asked to")
        return answer.highest

    async def _ask(
        self, path: str, message: Message, kind: type[M], timeout_s: float | None = None
    ) -> M:
        """Send a message and return the answer to it.

        Raises
        ------
        PeerUnavailableError
            If no proper answer came in time.
        PairingError
            If the peer says that a rule was broken.
        """
        try:
            status, body = await self._exchange(path, message, timeout_s or self._timeout_s)
        except (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            raise self._unavailable(f"cannot be reached: {what}") from error
        try:
            if status == HTTPStatus.OK:
                return kind.model_validate_json(body)
            problem = ProblemMessage.model_validate_json(body)
        except ValidationError:
            raise self._unavailable(f"sent an answer that is none (status {status})") from None
        if status == HTTPStatus.CONFLICT and problem.code == PairingError.code:
            raise PairingError(problem.message, peer=self._peer)
        raise self._unavailable(f"did not answer ({status}, {problem.code}): {problem.message}")

    async def _exchange(self, path: str, message: Message, timeout_s: float) -> tuple[int, bytes]:
        request = self._client.build_request(
            "POST",
            path.format(kme=self._peer),
            content=message.model_dump_json(),
            timeout=timeout_s,
        )
        async with asyncio.timeout(timeout_s):
            response = await self._client.send(request, stream=True)
            try:
                self._check_server(response)
                return response.status_code, await self._read(response)
            finally:
                await response.aclose()

    def _check_server(self, response: httpx.Response) -> None:
        """Return if the certificate of the connection's server names the peer."""
        stream = response.extensions.get("network_stream")
        tls = stream.get_extra_info("ssl_object") if stream is not None else None
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        try:
            found = _identity(der or b"")
        except (IdentityError, ValueError) as error:
            raise self._unavailable("was not reached: the server's name is unclear") from error
        if found != self._peer:
            raise self._unavailable("was not reached: the server is another KME")

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise self._unavailable("sent an answer that is too long")
        return bytes(body)

    def _unavailable(self, what: str) -> PeerUnavailableError:
        return PeerUnavailableError(f"KME {self._peer} {what}", peer=self._peer)


@lru_cache(maxsize=64)
def _identity(der: bytes) -> str:
    """Return which KME a verified server certificate speaks for."""
    return uri_identity(x509.load_der_x509_certificate(der), KME_PREFIX)
