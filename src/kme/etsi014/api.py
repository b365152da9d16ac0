"""api - create_app: an HTTP request in; a status, new keys or known keys out."""

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from kme.errors import IntegrityError
from kme.etsi014 import problems
from kme.etsi014.description import (
    DEC_KEYS,
    DEC_KEYS_BY_GET,
    ENC_KEYS,
    ENC_KEYS_BY_GET,
    STATUS,
    describe,
)
from kme.etsi014.identity import CallerIdentity
from kme.etsi014.messages import SOURCE_MEMBER, Body, KeyContainer, KeyEntry, Status
from kme.etsi014.offer import Offer
from kme.etsi014.parse import (
    Wish,
    key_ids_of_body,
    key_ids_of_query,
    key_request_of_body,
    key_request_of_query,
    sae_of_path,
    wish_of,
)
from kme.ids import KeyId, SaeId
from kme.store.records import SourceClass
from kme.supply.ports import Key, KeySupply, SupplyStock
from kme.units import BITS_PER_BYTE, bytes_of_bits

MAX_BODY_BYTES: Final = 64 * 1024
"""Several times what the largest allowed list of key_IDs takes."""


def create_app(supply: KeySupply, identity: CallerIdentity, offer: Offer) -> FastAPI:
    """Make the application that serves ETSI GS QKD 014 to the SAEs of one KME.

    Requests and answers do not pass through FastAPI's own parsing: bodies are
    bounded and read once, answers written once. `description` tells OpenAPI
    what they are.

    Parameters
    ----------
    supply
        Where keys come from.
    identity
        Who calls.
    offer
        What may be asked for.
    """
    app = FastAPI(
        title="ETSI GS QKD 014 key delivery",
        version="1.1.1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = _DirectRoute
    methods = _Methods(supply, identity, offer)
    # `path` lets an SAE id hold a slash; `sae_of_path` looks at the path as it came.
    slave, master = "/api/v1/keys/{slave_SAE_ID:path}", "/api/v1/keys/{master_SAE_ID:path}"
    app.get(f"{slave}/status", **STATUS)(methods.status)
    app.get(f"{slave}/enc_keys", **ENC_KEYS_BY_GET)(methods.enc_keys_by_get)
    app.post(f"{slave}/enc_keys", **ENC_KEYS)(methods.enc_keys)
    app.get(f"{master}/dec_keys", **DEC_KEYS_BY_GET)(methods.dec_keys_by_get)
    app.post(f"{master}/dec_keys", **DEC_KEYS)(methods.dec_keys)
    problems.install(app)
    describe(app)
    return app


class _DirectRoute(APIRoute):
    """A route whose function takes the request and returns the response, as they are."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class _Methods:
    """The three methods of clause 5, in their five forms.

    Each looks first at who calls, then at what is asked, and only then asks
    the supply.
    """

    def __init__(self, supply: KeySupply, identity: CallerIdentity, offer: Offer) -> None:
        self._supply = supply
        self._identity = identity
        self._offer = offer

    async def status(self, request: Request) -> Response:
        """Get status (clause 5.2): what the calling master SAE may ask for."""
        master = self._identity.caller(request.scope)
        slave = _other_sae(request)
        stock = await self._supply.stock(master, slave)
        return _answer(status_of(stock, self._offer, master, slave))

    async def enc_keys_by_get(self, request: Request) -> Response:
        """Get key (clause 5.3), its simple form: number and size in the query."""
        master = self._identity.caller(request.scope)
        slave = _other_sae(request)
        wish = wish_of(key_request_of_query(request.query_params), self._offer)
        return await self._new_keys(master, slave, wish)

    async def enc_keys(self, request: Request) -> Response:
        """Get key (clause 5.3): fresh keys for the calling master SAE."""
        master = self._identity.caller(request.scope)
        slave = _other_sae(request)
        wish = wish_of(key_request_of_body(await _body(request)), self._offer)
        return await self._new_keys(master, slave, wish)

    async def dec_keys_by_get(self, request: Request) -> Response:
        """Get key with key IDs (clause 5.4), its simple form: one key_ID in the query."""
        slave = self._identity.caller(request.scope)
        master = _other_sae(request)
        return await self._known_keys(master, slave, key_ids_of_query(request.query_params))

    async def dec_keys(self, request: Request) -> Response:
        """Get key with key IDs (clause 5.4): the keys that the master SAE was given."""
        slave = self._identity.caller(request.scope)
        master = _other_sae(request)
        return await self._known_keys(
            master, slave, key_ids_of_body(await _body(request), self._offer)
        )

    async def _new_keys(self, master: SaeId, slave: SaeId, wish: Wish) -> Response:
        keys = await self._supply.new_keys(
            master, slave, wish.n_keys, wish.n_bytes, wish.more_slaves
        )
        if len(keys) != wish.n_keys or any(len(key.key) != wish.n_bytes for key in keys):
            raise IntegrityError("the supply cut other keys than it was asked for")
        return _answer(container_of(keys))

    async def _known_keys(self, master: SaeId, slave: SaeId, key_ids: Sequence[KeyId]) -> Response:
        keys = await self._supply.keys_by_id(master, slave, key_ids)
        if [key.key_id for key in keys] != list(key_ids):
            raise IntegrityError("the supply handed out other keys than it was asked for")
        return _answer(container_of(keys))


def status_of(stock: SupplyStock, offer: Offer, master: SaeId, slave: SaeId) -> Status:
    """Say what a pair of SAEs may ask for, never more than can be met.

    Counts stay within `offer.max_key_count`. The largest size is that of the
    longest piece in stock, but never below the default size: with an empty
    stock, `stored_key_count` of 0 says that there is nothing now.
    """
    n_keys = stock.count_of(bytes_of_bits(offer.key_size_bits))
    largest_bits = min(stock.max_key_bytes * BITS_PER_BYTE, offer.max_key_size_bits)
    return Status(
        source_kme_id=offer.source,
        target_kme_id=stock.target,
        master_sae_id=master,
        slave_sae_id=slave,
        key_size=offer.key_size_bits,
        stored_key_count=min(n_keys, offer.max_key_count),
        max_key_count=offer.max_key_count,
        max_key_per_request=offer.max_keys_per_request,
        max_key_size=max(largest_bits, offer.key_size_bits),
        min_key_size=offer.min_key_size_bits,
        max_sae_id_count=offer.max_more_slaves,
        status_extension={SOURCE_MEMBER: _source_of(stock)},
    )


def container_of(keys: Sequence[Key]) -> KeyContainer:
    """Put keys into the container of clause 6.3, in their order."""
    return KeyContainer(
        keys=[KeyEntry(key_id=str(key.key_id), key=key.key.to_base64()) for key in keys]
    )


def _source_of(stock: SupplyStock) -> str:
    """Say where key comes from: random bits must not pass for a quantum key."""
    if not stock.source_classes:
        return "none"
    if stock.is_quantum:
        return str(SourceClass.QKD)
    return "mixed" if SourceClass.QKD in stock.source_classes else str(SourceClass.RANDOM)


def _other_sae(request: Request) -> SaeId:
    sae = sae_of_path(request.scope["raw_path"])
    if sae is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return sae


async def _body(request: Request) -> bytes:
    """Read the body, but no more of it than is allowed."""
    chunks: list[bytes] = []
    n_bytes = 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > MAX_BODY_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(body: Body) -> Response:
    return Response(body.to_json(), media_type=problems.MEDIA_TYPE, headers=problems.HEADERS)
