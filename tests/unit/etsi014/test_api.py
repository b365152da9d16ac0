"""The routes over a supply in memory: faults of the supply, and whatever clients may send."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_sae import app_for, asgi_client, tls_extension
from kme.errors import (
    CredentialError,
    IntegrityError,
    KmeError,
    OverlapError,
    StoreUnavailableError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import Credential
from kme.secret import Secret
from kme.store.records import SourceClass
from kme.supply.ports import Key, SupplyStock
from memory_supply import MemoryLink, MemorySupply
from sae_interface import error_of

A, B = KmeId("kme-a"), KmeId("kme-b")
ALICE, BOB = SaeId("alice"), SaeId("bob")
ODD = SaeId("odd/one?#%2F..")
HOMES = {ALICE: A, BOB: B, ODD: B}

VALID = Validity.lasting(timedelta(days=1), datetime.now(UTC))
ISSUER = Authority.root("root", VALID).issue_authority("issuer", TlsRole.CLIENT, VALID)


def credential_of(sae: SaeId) -> Credential:
    return ISSUER.issue(Leaf(sae, TlsRole.CLIENT, (f"sae-id:{sae}",)), VALID)


CREDENTIALS = {sae: credential_of(sae) for sae in HOMES}


class TroubledSupply(MemorySupply):
    """A supply whose next answer can be prepared."""

    error: Exception | None = None
    keys: list[Key] | None = None

    async def new_keys(
        self,
        master: SaeId,
        slave: SaeId,
        n_keys: int,
        n_bytes: int,
        more_slaves: Sequence[SaeId] = (),
    ) -> list[Key]:
        self._fail()
        if self.keys is not None:
            return self.keys
        return await super().new_keys(master, slave, n_keys, n_bytes, more_slaves)

    async def keys_by_id(self, master: SaeId, caller: SaeId, key_ids: Sequence[KeyId]) -> list[Key]:
        self._fail()
        if self.keys is not None:
            return self.keys
        return await super().keys_by_id(master, caller, key_ids)

    async def stock(self, master: SaeId, slave: SaeId) -> SupplyStock:
        self._fail()
        return await super().stock(master, slave)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def with_kme(
    test: Callable[[httpx.AsyncClient, TroubledSupply], Awaitable[None]],
    kme: KmeId = A,
    caller: SaeId = ALICE,
) -> None:
    supply = TroubledSupply(MemoryLink(HOMES), kme)
    residents = {sae for sae, home in HOMES.items() if home == kme}

    async def run() -> None:
        async with asgi_client(app_for(supply, kme, residents), CREDENTIALS[caller]) as client:
            await test(client, supply)

    asyncio.run(run())


ALL_REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/api/v1/keys/bob/status", None),
    ("GET", "/api/v1/keys/bob/enc_keys", None),
    ("POST", "/api/v1/keys/bob/enc_keys", {"number": 2}),
    ("GET", f"/api/v1/keys/bob/dec_keys?key_ID={KeyId(1, 8, 32, 5)}", None),
    ("POST", "/api/v1/keys/bob/dec_keys", {"key_IDs": [{"key_ID": str(KeyId(1, 8, 32, 5))}]}),
]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StoreUnavailableError("the store is away"), 503, "the store is away"),
        (IntegrityError("SECRET DETAIL"), 503, "out of service"),
        (OverlapError("SECRET DETAIL"), 400, "one or more keys specified are not found on KME"),
        (CredentialError("SECRET DETAIL"), 500, "error on server side"),
        (KmeError("SECRET DETAIL"), 500, "error on server side"),
        (RuntimeError("SECRET DETAIL"), 500, "error on server side"),
    ],
)
def test_faults_have_an_error_body_that_tells_no_secret(
    error: Exception, status: int, message: str
) -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        supply.error = error
        for verb, path, body in ALL_REQUESTS:
            response = await client.request(verb, path, json=body)
            assert response.status_code == status
            assert message in error_of(response)["message"]
            assert "SECRET" not in response.text
            assert ("retry-after" in response.headers) == (status == 503)

    with_kme(test)


def test_faults_are_logged_with_their_diagnostics(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        supply.error = IntegrityError("what happened", block=7)
        await client.get("/api/v1/keys/bob/enc_keys")

    with caplog.at_level(logging.INFO, "kme.etsi014"):
        with_kme(test)
    [record] = [record for record in caplog.records if record.name == "kme.etsi014.problems"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["error"]["block"] == 7


@pytest.mark.parametrize("n_keys", [0, 1, 3])
def test_a_short_or_long_answer_of_the_supply_is_never_passed_on(n_keys: int) -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        supply.keys = [Key(KeyId(1, 8 * i, 32, 5), Secret(bytes(32))) for i in range(n_keys)]
        for verb, path, body in ALL_REQUESTS[2:]:
            if n_keys == 1 and "dec_keys" in path:
                continue
            response = await client.request(verb, path, json=body)
            assert response.status_code == 503
            assert "keys" not in response.json()

    with_kme(test)


def test_a_key_of_the_wrong_length_is_never_passed_on() -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        supply.keys = [Key(KeyId(1, 8, 32, 5), Secret(bytes(31)))]
        assert (await client.get("/api/v1/keys/bob/enc_keys")).status_code == 503

    with_kme(test)


def test_a_request_without_certificate_is_unauthorized() -> None:
    async def run() -> None:
        app = app_for(MemorySupply(MemoryLink(HOMES), A), A, {ALICE})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://kme") as client:
            for verb, path, body in ALL_REQUESTS:
                response = await client.request(verb, path, json=body)
                assert response.status_code == 401
                error_of(response)

    asyncio.run(run())


def test_who_calls_is_asked_before_what_is_asked() -> None:
    async def test(client: httpx.AsyncClient, _: TroubledSupply) -> None:
        for path in ("%00/status", "bob/enc_keys?number=0", "bob/dec_keys?key_ID=x"):
            assert (await client.get(f"/api/v1/keys/{path}")).status_code == 401
        response = await client.post("/api/v1/keys/bob/enc_keys", content=b"{")
        assert response.status_code == 401

    with_kme(test, kme=B, caller=ALICE)


def test_an_sae_id_may_hold_any_visible_character() -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        path = f"/api/v1/keys/{quote(ODD, safe='')}"
        status = (await client.get(f"{path}/status")).json()
        assert status["slave_SAE_ID"] == ODD
        [key] = (await client.get(f"{path}/enc_keys")).json()["keys"]
        app = app_for(supply._link.supply_at(B), B, {ODD})
        async with asgi_client(app, CREDENTIALS[ODD]) as slave:
            response = await slave.get(f"/api/v1/keys/alice/dec_keys?key_ID={key['key_ID']}")
            assert response.json() == {"keys": [key]}

    with_kme(test)


@pytest.mark.parametrize(
    ("source_class", "n_granules", "says"),
    [(SourceClass.QKD, 100, "qkd"), (SourceClass.RANDOM, 100, "random"), (None, 0, "none")],
)
def test_status_tells_the_source(
    source_class: SourceClass | None, n_granules: int, says: str
) -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        supply._link.n_granules = n_granules
        if source_class is not None:
            supply._link.source_class = source_class
        status = (await client.get("/api/v1/keys/bob/status")).json()
        assert status["status_extension"]["kme_source"] == says

    with_kme(test)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
known_members = st.sampled_from(
    [
        "number",
        "size",
        "additional_slave_SAE_IDs",
        "extension_mandatory",
        "extension_optional",
        "key_IDs",
        "key_IDs_extension",
    ]
)
bodies = st.one_of(
    st.binary(max_size=64),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(known_members, json_values, max_size=4).map(
        lambda value: json.dumps(value).encode()
    ),
    st.lists(st.fixed_dictionaries({"key_ID": json_values | st.uuids().map(str)}), max_size=4).map(
        lambda entries: json.dumps({"key_IDs": entries}).encode()
    ),
    st.integers(1, 5000).map(lambda depth: b'{"extension_optional":' + b"[" * depth),
)
paths = st.sampled_from(["bob", "alice", "nobody", "%00", "a%2Fb", "", "%FF", "%zz"])
methods = st.sampled_from(["enc_keys", "dec_keys", "status", "nothing"])
queries = st.lists(
    st.tuples(
        st.sampled_from(["number", "size", "key_ID", "extension_mandatory", "x"]),
        st.text(max_size=8) | st.integers().map(str) | st.uuids().map(str),
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(
    verb=st.sampled_from(["GET", "POST", "PUT", "HEAD"]),
    sae=paths,
    method=methods,
    query=queries,
    body=bodies,
)
def test_whatever_is_sent_the_answer_is_json_and_no_fault(
    verb: str, sae: str, method: str, query: list[tuple[str, Any]], body: bytes
) -> None:
    async def test(client: httpx.AsyncClient, _: TroubledSupply) -> None:
        url = f"/api/v1/keys/{sae}/{method}"
        response = await client.request(verb, url, params=httpx.QueryParams(query), content=body)
        assert response.headers["content-type"] == "application/json"
        if response.status_code != 200:
            assert response.status_code in {400, 401, 404, 405}
            if verb != "HEAD":
                error_of(response)

    with_kme(test)


def test_additional_slaves_reach_the_supply() -> None:
    async def test(client: httpx.AsyncClient, supply: TroubledSupply) -> None:
        body = {"additional_slave_SAE_IDs": ["alice", "bob"]}
        await client.post("/api/v1/keys/bob/enc_keys", json=body)
        assert supply.more_slaves == ("alice", "bob")

    with_kme(test)


@settings(max_examples=60, deadline=None)
@given(number=st.integers(-2, 200), size=st.integers(-16, 70_000))
def test_a_key_request_is_met_exactly_or_refused(number: int, size: int) -> None:
    is_fair = 1 <= number <= 128 and 8 <= size <= 65536 and size % 8 == 0

    async def test(client: httpx.AsyncClient, _: TroubledSupply) -> None:
        body = {"number": number, "size": size}
        response = await client.post("/api/v1/keys/bob/enc_keys", json=body)
        assert response.status_code == (200 if is_fair else 400)
        if is_fair:
            assert len(response.json()["keys"]) == number

    with_kme(test)


def test_the_body_limit_leaves_room_for_the_largest_list_of_ids() -> None:
    async def test(client: httpx.AsyncClient, _: TroubledSupply) -> None:
        ids = [str(KeyId(2**34 - 1, i, 8192, 5)) for i in range(128)]
        entries = [{"key_ID": key_id, "key_ID_extension": {"x": "y" * 200}} for key_id in ids]
        response = await client.post(
            "/api/v1/keys/bob/dec_keys", content=json.dumps({"key_IDs": entries}, indent=4)
        )
        assert response.status_code == 400
        assert "not found" in response.json()["message"]

    with_kme(test)


def test_a_client_that_goes_away_within_its_body_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_for(MemorySupply(MemoryLink(HOMES), A), A, {ALICE})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        path = "/api/v1/keys/bob/enc_keys"
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "extensions": tls_extension(CREDENTIALS[ALICE]),
        }
        await app(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 400
    assert not caplog.records


def test_openapi_describes_just_the_routes_there_are() -> None:
    app = app_for(MemorySupply(MemoryLink(HOMES), A), A, {ALICE})
    schema = app.openapi()
    assert {path: set(item) for path, item in schema["paths"].items()} == {
        "/api/v1/keys/{slave_SAE_ID}/status": {"get"},
        "/api/v1/keys/{slave_SAE_ID}/enc_keys": {"get", "post"},
        "/api/v1/keys/{master_SAE_ID}/dec_keys": {"get", "post"},
    }
