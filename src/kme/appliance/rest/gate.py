"""gate - a request in, the application that it is for out: by its path and by who makes it."""

from typing import Any, Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from kme.appliance.rest.health import Health
from kme.errors import IdentityError, KmeError, NotEntitledError, UnavailableError
from kme.etsi014.forwarded import service_of
from kme.etsi014.problems import problem_of
from kme.server import ASGIApplication

PROXY: Final = "traefik"
OPERATOR: Final = "operator"

_HEALTH: Final = "/health/"
_ADMIN: Final = "/admin/v1/"
_STARTING: Final = "this KME is starting or waits for its Vault: try again later"


class FrontGate:
    """The listener of every worker: health for services, all else for SAEs behind the proxy.

    Parameters
    ----------
    health
        What this worker knows about itself.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._app: ASGIApplication | None = None

    def open(self, app: ASGIApplication) -> None:
        """Let SAEs in from now on; until then they are told to come later."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on (ASGI)."""
        if scope["path"].startswith(_HEALTH):
            response = await self._health.answer(Request(scope, receive))
            await response(scope, receive, send)
            return
        try:
            require_service(scope, PROXY)
            if self._app is None:
                raise UnavailableError(_STARTING)
        except KmeError as error:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, send)


class BackGate:
    """The listener of the elected worker: peers behind the proxy, and the operator.

    Parameters
    ----------
    peer_app
        What peers ask.
    admin_app
        What operators ask.
    """

    def __init__(self, peer_app: ASGIApplication, admin_app: ASGIApplication) -> None:
        self._peer_app = peer_app
        self._admin_app = admin_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on (ASGI)."""
        is_admin = scope["path"].startswith(_ADMIN)
        try:
            require_service(scope, OPERATOR if is_admin else PROXY)
        except KmeError as error:
            await _refuse(error, scope, receive, send)
            return
        app: Any = self._admin_app if is_admin else self._peer_app
        await app(scope, receive, send)


def require_service(scope: Scope, service: str) -> None:
    """Return if the connection is of one certain service.

    Raises
    ------
    IdentityError
        If its certificate names no service clearly.
    NotEntitledError
        If it is another one.
    """
    if service_of(scope) != service:
        raise NotEntitledError("this is not for the service that calls")


async def _refuse(error: KmeError, scope: Scope, receive: Receive, send: Send) -> None:
    assert isinstance(error, IdentityError | NotEntitledError | UnavailableError)
    await problem_of(error).response()(scope, receive, send)
