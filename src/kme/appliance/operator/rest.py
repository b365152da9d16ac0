"""rest - questions to this KME's own rest service in, its answers out, over mutual TLS."""

import ssl
from types import TracebackType
from typing import Any, Final, Self

import httpx

from kme.appliance.operator.settings import OperatorSettings
from kme.errors import RefusedError, UnavailableError
from kme.ids import KmeId
from kme.pki.identity import SERVICE_PREFIX
from kme.pki.tls import client_context

_SERVER: Final = f"{SERVICE_PREFIX}rest"

# That of `kme.appliance.admin`, which would bring a whole web framework along.
_PREFIX: Final = "/admin/v1"


class RestClient:
    """The admin interface of this KME, from outside.

    Parameters
    ----------
    settings
        Where it is, and who we are.
    context
        TLS towards it; made of the settings unless a test has its own.
    transport
        Another way there than TLS over TCP, for tests.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        context: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        rest = settings.rest
        self._url = rest.url
        self._client = httpx.AsyncClient(
            base_url=rest.url,
            verify=context or client_context(settings.credential, rest.ca, _SERVER),
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            timeout=rest.timeout_s,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def stock(self) -> dict[str, Any]:
        """Ask what is in stock for every pair, at both ends."""
        pairs: dict[str, Any] = (await self._ask("GET", "stock"))["pairs"]
        return pairs

    async def status(self) -> dict[str, Any]:
        """Ask how things stand with each peer."""
        return await self._ask("GET", "status")

    async def compare(self, peer: KmeId) -> dict[str, Any]:
        """Have all blocks of a pair compared, some at a time."""
        total: dict[str, Any] = {"n_equal": 0, "unequal": [], "absent_here": [], "absent_there": []}
        number: int | None = 1
        while number is not None:
            question = {"peer": str(peer), "from_number": number}
            found = await self._ask("POST", "compare", question)
            for name, so_far in total.items():
                total[name] = so_far + found[name]
            number = found["next_number"]
        return total

    async def clear(self, peer: KmeId) -> int:
        """Have all keys of a pair dropped at both ends; return up to which block."""
        question = {"peer": str(peer), "confirmed": str(peer)}
        number: int = (await self._ask("POST", "clear", question))["cleared_up_to"]
        return number

    async def retire(self, peer: KmeId) -> int:
        """Have all keys of a pair burnt at this end; return up to which block."""
        question = {"peer": str(peer), "confirmed": str(peer)}
        number: int = (await self._ask("POST", "retire", question))["burnt_up_to"]
        return number

    async def reload(self) -> None:
        """Have the registry, the connected KMEs and revocations read anew."""
        await self._ask("POST", "reload")

    async def _ask(self, method: str, what: str, body: object = None) -> dict[str, Any]:
        """Ask, and return the answer.

        Raises
        ------
        UnavailableError
            If the service doesn't answer, or can't now.
        RefusedError
            If it refuses.
        """
        try:
            response = await self._client.request(method, f"{_PREFIX}/{what}", json=body)
            answer = response.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise UnavailableError(
                f"the rest service at {self._url} does not answer: does `make ps` show it healthy?"
                f" ({str(error) or type(error).__name__})"
            ) from error
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        message = answer.get("message") if isinstance(answer, dict) else None
        kind = RefusedError if response.status_code < 500 else UnavailableError
        raise kind(message or f"the rest service answered {response.status_code}")
