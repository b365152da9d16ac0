import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import Request

from kme.appliance.admin import create_admin_app
from kme.errors import IdentityError, NotEntitledError, StoreUnavailableError
from simulated_operations import OperatedPair
from simulated_pair import ALICE_KME, BOB_KME, LINK, SimulatedPair
from simulation import VirtualClock, run_virtual

A, B = ALICE_KME, BOB_KME


class Desk:
    """The admin interface of kme-a, over two KMEs in memory."""

    def __init__(self, clock: VirtualClock) -> None:
        pair = SimulatedPair(clock, 0)
        for kme in pair.both:
            kme.start()
        self.operated = OperatedPair(pair)
        self.refusal: Exception | None = None
        self.done: list[str] = []
        app = create_admin_app(self.operated.alice, self._require, self._reload, self._heed)
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def _require(self, _request: Request) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def _reload(self) -> None:
        self.done.append("reloaded")

    async def _heed(self) -> None:
        self.done.append("heeded")

    async def ask(self, method: str, what: str, body: object = None) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="https://rest") as client:
            return await client.request(method, f"/admin/v1/{what}", json=body)


def at_desk(story: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    run_virtual(lambda clock: story(Desk(clock)))


def test_stock_is_shown_from_both_ends() -> None:
    async def story(desk: Desk) -> None:
        found = (await desk.ask("GET", "stock?key_bytes=16")).json()
        assert found["key_bytes"] == 16
        assert set(found["pairs"]) == {B}
        assert found["pairs"][B]["here"]["n_bytes"] == 0
        assert found["pairs"][B]["there"]["n_keys"] == 0
        desk.operated.faults.drop = 1.0
        silent = (await desk.ask("GET", "stock")).json()["pairs"][B]
        assert (silent["there"], silent["why_not"]) == (None, "lost on the way")

    at_desk(story)


def test_the_state_of_each_peer_and_alarms_are_shown() -> None:
    async def story(desk: Desk) -> None:
        await desk.operated.alice.clear(B)
        found = (await desk.ask("GET", "status")).json()
        assert found["peers"][B]["is_alive"] is False
        assert "no heartbeat" in found["peers"][B]["reason"]
        assert [alarm["kind"] for alarm in found["incidents"]] == ["cleared"]

    at_desk(story)


def test_blocks_are_compared() -> None:
    async def story(desk: Desk) -> None:
        response = await desk.ask("POST", "compare", {"peer": B})
        assert response.json() == {
            "n_equal": 0,
            "unequal": [],
            "absent_here": [],
            "absent_there": [],
            "next_number": None,
        }

    at_desk(story)


def test_keys_of_a_peer_that_is_gone_are_burnt_after_it_was_named_twice() -> None:
    async def story(desk: Desk) -> None:
        desk.operated.faults.drop = 1.0
        await desk.operated.pair.alice.ingest(LINK, 7, bytes(600))
        slip = await desk.ask("POST", "retire", {"peer": B, "confirmed": "kme-c"})
        assert (slip.status_code, slip.json()["code"]) == (400, "input")
        assert len(await desk.operated.pair.alice.store.inbox(B, LINK, None, 9)) == 1
        done = await desk.ask("POST", "retire", {"peer": B, "confirmed": B})
        assert (done.status_code, done.json()) == (200, {"burnt_up_to": 0})
        assert await desk.operated.pair.alice.store.inbox(B, LINK, None, 9) == []
        assert desk.done == ["heeded"]

    at_desk(story)


def test_keys_are_dropped_after_the_peer_was_named_twice() -> None:
    async def story(desk: Desk) -> None:
        await desk.operated.pair.alice.ingest(LINK, 7, bytes(600))
        slip = await desk.ask("POST", "clear", {"peer": B, "confirmed": "kme-c"})
        assert (slip.status_code, slip.json()["code"]) == (400, "input")
        assert len(await desk.operated.pair.alice.store.inbox(B, LINK, None, 9)) == 1
        done = await desk.ask("POST", "clear", {"peer": B, "confirmed": B})
        assert (done.status_code, done.json()) == (200, {"cleared_up_to": 0})
        assert await desk.operated.pair.alice.store.inbox(B, LINK, None, 9) == []
        assert desk.done == ["heeded"]

    at_desk(story)


def test_floors_are_heeded_also_if_the_peer_did_not_answer() -> None:
    async def story(desk: Desk) -> None:
        desk.operated.faults.drop = 1.0
        response = await desk.ask("POST", "clear", {"peer": B, "confirmed": B})
        assert (response.status_code, response.json()["code"]) == (503, "peer_unavailable")
        assert desk.done == ["heeded"]

    at_desk(story)


def test_news_is_taken_up() -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.ask("POST", "reload")).json() == {"reloaded": True}
        assert desk.done == ["reloaded"]

    at_desk(story)


REQUESTS = [
    ("GET", "stock", None),
    ("GET", "status", None),
    ("POST", "compare", {"peer": B}),
    ("POST", "clear", {"peer": B, "confirmed": B}),
    ("POST", "retire", {"peer": B, "confirmed": B}),
    ("POST", "reload", None),
]


@pytest.mark.parametrize(("method", "what", "body"), REQUESTS)
@pytest.mark.parametrize(
    ("refusal", "status"), [(IdentityError("who?"), 401), (NotEntitledError("not you"), 403)]
)
def test_nobody_but_the_operator_is_heard(
    method: str, what: str, body: object, refusal: Exception, status: int
) -> None:
    async def story(desk: Desk) -> None:
        desk.refusal = refusal
        response = await desk.ask(method, what, body)
        assert response.status_code == status
        assert desk.done == []
        assert desk.operated.links[A].n_sent == 0

    at_desk(story)


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [
        ("POST", "compare", None),
        ("POST", "compare", {"peer": 7}),
        ("POST", "compare", {"peer": B, "from_number": 0}),
        ("POST", "compare", {"peer": B, "more": 1}),
        ("POST", "compare", {"peer": "a b"}),
        ("POST", "clear", {"peer": B}),
        ("GET", "stock?key_bytes=0", None),
    ],
)
def test_what_is_no_question_is_refused(method: str, what: str, body: object) -> None:
    async def story(desk: Desk) -> None:
        response = await desk.ask(method, what, body)
        assert response.status_code == 400
        assert set(response.json()) == {"code", "message"}

    at_desk(story)


def test_a_stranger_is_no_peer() -> None:
    async def story(desk: Desk) -> None:
        response = await desk.ask("POST", "compare", {"peer": "kme-z"})
        assert response.status_code == 401
        assert "not a peer" in response.json()["message"]

    at_desk(story)


def test_a_store_that_is_sealed_is_told_and_a_mistake_tells_nothing() -> None:
    async def story(desk: Desk) -> None:
        desk.refusal = StoreUnavailableError("sealed")
        assert (await desk.ask("GET", "stock")).status_code == 503
        desk.refusal = ZeroDivisionError("inside")
        response = await desk.ask("GET", "stock")
        assert response.status_code == 500
        assert "inside" not in response.text
        await asyncio.sleep(0)

    at_desk(story)


def test_the_operators_program_knows_where_it_is() -> None:
    from kme.appliance.admin import PREFIX
    from kme.appliance.operator import rest

    assert rest._PREFIX == PREFIX
