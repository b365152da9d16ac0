"""Stock, comparison and clearing, asked for over mutual TLS of two KMEs in memory."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from kme.appliance.admin import create_admin_app
from kme.appliance.rest.gate import OPERATOR, require_service
from kme.ids import Epoch
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import CredentialFiles, write_certificates, write_credential
from kme.pki.tls import server_context
from kme.secret import Secret
from kme.server import MutualTlsServer
from kme.store.records import FinalKeyRef, Proposal, Settlement, SourceClass, Verdict
from operator_site import OperatorSite
from server_thread import ServerThread
from simulated_operations import OperatedPair
from simulated_pair import LINK, SimulatedPair
from simulation import VirtualClock

N_BLOCKS = 70
DAY = Validity.lasting(timedelta(days=1), datetime.now(UTC))


class Desk:
    """kme-a's admin interface behind TLS, and the operator's program in front of it."""

    def __init__(self, site: OperatorSite, folder: Path, loop: ServerThread) -> None:
        self.site, self.folder, self.loop = site, folder, loop
        root = Authority.root("services of a test", DAY)
        self.issuer = root.issue_authority("issuer", TlsRole.SERVER | TlsRole.CLIENT, DAY)
        write_certificates([self.issuer.credential.certificate], folder / "ca.pem")
        self.operated: OperatedPair
        self.server: MutualTlsServer

    async def open(self) -> None:
        pair = SimulatedPair(VirtualClock(), 0)
        for kme in pair.both:
            kme.start()
        self.operated = OperatedPair(pair)
        for number in range(1, N_BLOCKS + 1):
            await self.add_block(number, random.Random(number).randbytes(512))
        app = create_admin_app(self.operated.alice, _require_operator, _nothing, _nothing)
        context = server_context(self.credential("rest", TlsRole.SERVER), self.folder / "ca.pem")
        self.server = MutualTlsServer(app, context, "127.0.0.1", 0)
        await self.server.start()

    async def add_block(self, number: int, *keys: bytes) -> None:
        """Give both KMEs a block: the same, or two that differ."""
        pair = self.operated.pair
        entries = (FinalKeyRef(LINK, Epoch(number)),)
        for kme, key in zip(pair.both, (keys[0], keys[-1]), strict=True):
            peer = kme.other.local
            pair.witness.digests.clear()
            owner = pair.both[number % 2].local
            proposal = Proposal(number, owner, entries, 60, SourceClass.QKD, bytes(16))
            await kme.store.settle(peer, Settlement(proposal, Verdict.EQUAL), Secret(key))
        for kme in pair.both:
            await kme.store.raise_peer_settled(kme.other.local, number)

    def credential(self, service: str, role: TlsRole = TlsRole.CLIENT) -> CredentialFiles:
        """Make a service's certificate."""
        files = CredentialFiles(self.folder / f"{service}.pem", self.folder / f"{service}.key")
        leaf = Leaf(service, role, (f"service-id:{service}",), ("localhost",))
        write_credential(self.issuer.issue(leaf, DAY), files)
        return files

    def run(
        self, *arguments: str, service: str = "operator", **changes: str
    ) -> tuple[int, str, str]:
        own = self.credential(service)
        settings = {
            "ID": "kme-a",
            "LINKS": "kme-b/link",
            "VAULT__CERTIFICATE": str(own.certificate),
            "VAULT__KEY": str(own.key),
            "REST__CA": str(self.folder / "ca.pem"),
            "REST__URL": f"https://localhost:{self.server.port}",
        }
        return self.site.run(*arguments, **(settings | changes))


def _require_operator(request: Request) -> None:
    require_service(request.scope, OPERATOR)


async def _nothing() -> None:
    """Have nothing to do."""


@pytest.fixture
def desk(site: OperatorSite, tmp_path: Path) -> Iterator[Desk]:
    with ServerThread() as loop:
        desk = Desk(site, tmp_path, loop)
        loop.call(desk.open())
        yield desk
        loop.call(desk.server.stop())


def answer(done: tuple[int, str, str], code: int = 0) -> Any:
    assert done[0] == code, done
    return json.loads(done[1])


def test_stock_is_shown_from_both_ends(desk: Desk) -> None:
    found = answer(desk.run("keys", "--json"))["kme-b"]
    assert (found["here"]["n_blocks"], found["there"]["n_blocks"]) == (35, 35)
    assert found["here"]["n_keys"] == 35 * 14
    code, shown, _ = desk.run("keys")
    assert code == 0
    assert shown.count(str(35 * 448)) == 2


def test_a_peer_that_is_silent_is_told_by_the_exit_code(desk: Desk) -> None:
    desk.operated.faults.drop = 1.0
    assert answer(desk.run("keys", "--json"), 3)["kme-b"]["there"] is None
    code, shown, _ = desk.run("keys")
    assert code == 3
    assert "KME kme-b does not say: lost on the way" in shown


def test_the_state_is_shown(desk: Desk) -> None:
    found = answer(desk.run("status", "--json"), 3)
    assert found["peers"]["kme-b"]["settled"] == N_BLOCKS
    assert "no heartbeat" in desk.run("status")[1]


def test_an_equal_stock_of_many_blocks_is_equal(desk: Desk) -> None:
    assert answer(desk.run("compare", "--json"))["kme-b"]["n_equal"] == N_BLOCKS
    code, shown, _ = desk.run("compare", "--peer", "kme-b")
    assert code == 0
    assert "What both KMEs have is equal." in shown


def test_a_difference_is_told_by_number_and_exit_code(desk: Desk) -> None:
    number = N_BLOCKS + 1
    desk.loop.call(desk.add_block(number, bytes(600), bytes(599) + b"\1"))
    assert answer(desk.run("compare", "--json"), 3)["kme-b"]["unequal"] == [number]
    code, shown, _ = desk.run("compare")
    assert code == 3
    assert f"These blocks differ: kme-b: {number}" in shown


def test_keys_are_dropped_at_both_ends_after_asking(desk: Desk) -> None:
    assert desk.run("clear")[0] == 1
    assert answer(desk.run("keys", "--json"))["kme-b"]["there"]["n_blocks"] == 35
    code, shown, _ = desk.run("clear", "--yes")
    assert code == 0
    assert f"up to block {N_BLOCKS}" in shown
    found = answer(desk.run("keys", "--json"))["kme-b"]
    assert (found["here"]["n_bytes"], found["there"]["n_bytes"]) == (0, 0)
    assert answer(desk.run("compare", "--json"))["kme-b"]["n_equal"] == 0


def test_keys_of_a_kme_that_is_gone_are_burnt_here_after_asking(desk: Desk) -> None:
    assert desk.run("retire", "kme-b")[0] == 1
    assert answer(desk.run("keys", "--json"))["kme-b"]["here"]["n_bytes"] > 0
    code, shown, _ = desk.run("retire", "kme-b", "--yes")
    assert code == 0
    assert f"up to block {N_BLOCKS}" in shown
    found = answer(desk.run("keys", "--json"))["kme-b"]
    assert found["here"]["n_bytes"] == 0
    assert found["there"]["n_bytes"] > 0
    assert "must be one of kme-b" in desk.run("retire", "kme-z", "--yes")[2]


def test_another_peer_is_none(desk: Desk) -> None:
    code, _, line = desk.run("compare", "--peer", "kme-z")
    assert code == 1
    assert "must be one of kme-b" in line


def test_another_service_is_not_heard(desk: Desk) -> None:
    code, _, line = desk.run("keys", service="watcher")
    assert code == 1
    assert "not for the service that calls" in line


def test_a_server_that_is_not_the_rest_service_is_told_nothing(desk: Desk) -> None:
    asked: list[str] = []

    async def pretend() -> None:
        async def app(scope: Any, *_: Any) -> None:
            asked.append(scope["path"])

        own = desk.credential("watcher", TlsRole.SERVER)
        context = server_context(own, desk.folder / "ca.pem")
        await desk.server.stop()
        desk.server = MutualTlsServer(app, context, "127.0.0.1", 0)
        await desk.server.start()

    desk.loop.call(pretend())
    code, _, line = desk.run("keys")
    assert asked == []
    assert code == 1
    assert "does not answer" in line


def test_a_rest_service_that_is_away_is_told_in_one_line(desk: Desk) -> None:
    code, _, line = desk.run("keys", REST__URL="https://localhost:1")
    assert code == 1
    assert "make ps" in line
    assert line.count("\n") == 1


def test_settings_that_are_wrong_are_named(desk: Desk) -> None:
    code, _, line = desk.run("keys", PEER_PORT="0")
    assert code == 1
    assert "KME_PEER_PORT" in line
