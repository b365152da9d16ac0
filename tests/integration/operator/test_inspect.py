"""What an operator sees in Vault: counts and digests, and never a key."""

import base64
import random
from typing import Any

import pytest

from kme.errors import StoreUnavailableError
from kme.ids import Epoch, SourceId
from kme.secret import Secret
from kme.store.records import (
    FinalKeyRef,
    Incident,
    IncidentKind,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from kme.store.vault import VaultStore
from operator_site import HERE, PEER, OperatorSite

SOURCE = SourceId("qkd-1")
KEYS = [random.Random(n).randbytes(700) for n in range(4)]


@pytest.fixture(scope="module")
def stocked(site: OperatorSite) -> OperatorSite:
    async def fill(documents: Any) -> None:
        found = await documents.read("site/digest-key")
        store = await VaultStore.open(HERE, documents, Secret(base64.b64decode(found.data["key"])))
        for epoch, key in enumerate(KEYS):
            await store.ingest(PEER, SOURCE, Epoch(0x100 + epoch), [Secret(key)])
        for number, owner in ((1, HERE), (2, PEER)):
            entries = (FinalKeyRef(SOURCE, Epoch(0xFF + number)),)
            proposal = Proposal(number, owner, entries, 3600, SourceClass.QKD, bytes(16))
            verdict = Settlement(proposal, Verdict.EQUAL)
            await store.settle(PEER, verdict, Secret(KEYS[number - 1]))
        await store.raise_peer_settled(PEER, 1)
        await store.record_incident(Incident(PEER, IncidentKind.CLEARED, 1e9, "an alarm"))
        await store.close()

    site.as_service("rest", fill)
    return site


def test_counts_digests_and_states_are_shown(stocked: OperatorSite) -> None:
    found = stocked.ask("inspect")
    waiting = next(row for row in found["waiting"] if row["peer"] == PEER)
    assert (waiting["n_final_keys"], waiting["n_bytes"]) == (2, 1400)
    assert (waiting["first_epoch"], waiting["last_epoch"]) == ("00000102", "00000103")
    pair = next(row for row in found["pairs"] if row["peer"] == PEER)
    assert (pair["settled"], pair["own_blocks_with_room"], pair["n_ledgers"]) == (2, 1, 1)
    (block,) = found["blocks"]
    assert (block["number"], block["bytes"], block["owner"]) == (2, 700, PEER)
    assert block["granules_drawn"] == 8
    assert len(block["digest"]) == 64
    assert [alarm["details"] for alarm in found["incidents"]] == ["an alarm"]


def test_tables_are_for_people(stocked: OperatorSite) -> None:
    shown = stocked.do("inspect")
    for expected in ("final keys that wait", "latest blocks", "an alarm", "qkd-1", "2001-09-09"):
        assert expected in shown


def test_no_key_is_in_it(stocked: OperatorSite) -> None:
    shown = stocked.do("inspect") + stocked.do("inspect", "--json")
    for key in KEYS:
        for form in (
            key.hex(),
            base64.b64encode(key).decode(),
            base64.b64encode(key[64:]).decode(),
        ):
            assert form[:16] not in shown


@pytest.mark.parametrize("role", ["inspect", "admin"])
@pytest.mark.parametrize(
    "path", ["inbox/kme-2/qkd-1/00000101-0", "blocks/kme-2/1", "site/digest-key"]
)
def test_vault_itself_refuses_the_bytes(stocked: OperatorSite, role: str, path: str) -> None:
    with pytest.raises(StoreUnavailableError):
        stocked.as_service(role, lambda documents: documents.read(path))
