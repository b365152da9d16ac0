"""kme.status: pair.json is read with care; what a running pair says becomes a table."""

import asyncio
import io
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kme.clock import SystemClock
from kme.errors import KmeError, SettingsError, UnavailableError
from kme.etsi014.api import create_app
from kme.etsi014.identity import CertificateIdentity
from kme.etsi014.offer import Offer
from kme.ids import KmeId, SaeId, SourceId
from kme.pair import DEFAULT_SAES, HOST, KME_IDS, PairPlan, free_ports, lay_out
from kme.pki.tls import server_context
from kme.server import MutualTlsServer
from kme.status import PairDescription, show_status
from kme.store.records import SourceClass
from memory_supply import MemoryLink

ALICE, BOB, EVE = DEFAULT_SAES


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out a pair that does not run."""
    plan = PairPlan(
        tmp_path_factory.mktemp("status") / "a pair",
        free_ports(4),
        DEFAULT_SAES,
        SourceId("sim"),
        SourceClass.QKD,
    )
    return lay_out(plan).directory


def shown(directory: Path) -> str:
    screen = io.StringIO()
    asyncio.run(show_status(directory, Console(file=screen, width=120)))
    return screen.getvalue()


def test_what_lay_out_describes_is_understood(directory: Path) -> None:
    pair = PairDescription.read(directory)
    assert pair.homes == DEFAULT_SAES
    assert set(pair.sae_urls) == set(pair.anchors) == set(KME_IDS)
    assert all(files.key.is_file() for files in pair.credentials.values())


def test_couples_live_at_different_kmes(directory: Path) -> None:
    assert PairDescription.read(directory).couples() == [
        (ALICE, BOB),
        (ALICE, EVE),
        (BOB, ALICE),
        (EVE, ALICE),
    ]


def test_a_pair_that_does_not_run_is_said_in_one_line(directory: Path) -> None:
    with pytest.raises(UnavailableError, match=r"https://127\.0\.0\.1:\d+: the KME does not"):
        shown(directory)


def test_without_a_description_nothing_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pair\.json: cannot be read: .*does `kme serve` run"):
        shown(tmp_path)
    (tmp_path / "pair.json").mkdir()
    with pytest.raises(SettingsError, match=r"pair\.json: cannot be read: Is a directory"):
        shown(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"kmes": 1}', b'{"kmes": ["x"]}', 50_000 * b"["],
)
def test_what_is_no_description_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pair.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"pair\.json: is no description of a pair") as refused:
        shown(tmp_path)
    assert "\n" not in str(refused.value)


def _without(list_name: str, member: str) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields[list_name][0].pop(member)


def _with(list_name: str, member: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields[list_name][0].update({member: value})


@pytest.mark.parametrize(
    "spoil",
    [_without("kmes", name) for name in ("id", "sae_url", "ca")]
    + [_without("saes", name) for name in ("id", "kme", "cert", "key")]
    + [
        _with("kmes", "id", 5),
        _with("kmes", "id", "no id!"),
        _with("kmes", "sae_url", 5),
        _with("kmes", "sae_url", "https://["),
        _with("kmes", "sae_url", "https://127.0.0.1:70000"),
        _with("kmes", "sae_url", "file:///etc/passwd"),
        _with("kmes", "ca", None),
        _with("saes", "kme", "kme-c"),
        _with("saes", "cert", 5),
        lambda fields: fields.pop("kmes"),
        lambda fields: fields.update(saes={"alice": "kme-a"}),
    ],
)
def test_a_spoilt_description_is_refused(
    directory: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    fields = json.loads((directory / "pair.json").read_text())
    spoil(fields)
    (tmp_path / "pair.json").write_text(json.dumps(fields))
    with pytest.raises(SettingsError, match=r"pair\.json: is no description of a pair"):
        shown(tmp_path)


def test_credentials_that_are_gone_are_named(directory: Path, tmp_path: Path) -> None:
    fields = json.loads((directory / "pair.json").read_text())
    fields["saes"][0]["key"] = str(tmp_path / "gone.key")
    (tmp_path / "pair.json").write_text(json.dumps(fields))
    with pytest.raises(KmeError, match=r"gone\.key"):
        shown(tmp_path)


async def _show_running(plan: PairPlan, link: MemoryLink) -> str:
    """Serve both KMEs' SAE ports out of one link, and look at the status."""
    pair = lay_out(plan)
    screen = io.StringIO()
    async with AsyncExitStack() as stack:
        for place in pair.kmes:
            app = create_app(
                link.supply_at(place.id),
                CertificateIdentity(partial(_lives_at, place.id), SystemClock()),
                Offer(place.id),
            )
            context = server_context(
                pair.pki.service_certificates[place.id], pair.pki.sae_ca, pair.pki.sae_crl
            )
            server = MutualTlsServer(app, context, HOST, place.sae_port)
            await server.start()
            stack.push_async_callback(server.stop)
        await show_status(pair.directory, Console(file=screen, width=120))
    return screen.getvalue()


def _lives_at(kme: KmeId, sae: SaeId) -> bool:
    return DEFAULT_SAES.get(sae) == kme


@pytest.mark.parametrize(
    ("source_class", "shown_as"),
    [(SourceClass.QKD, "qkd"), (SourceClass.RANDOM, "RANDOM, no quantum key")],
)
def test_the_stock_is_shown_and_its_source_called_what_it_is(
    tmp_path: Path, source_class: SourceClass, shown_as: str
) -> None:
    link = MemoryLink(dict(DEFAULT_SAES), n_granules=400)
    link.source_class = source_class
    plan = PairPlan(tmp_path / "pair", free_ports(4), DEFAULT_SAES, SourceId("sim"), source_class)
    lines = asyncio.run(_show_running(plan, link)).splitlines()
    assert "keys in stock" in lines[1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "@" in line]
    assert rows == [
        [f"{master} @ {DEFAULT_SAES[master]}", f"{slave} @ {DEFAULT_SAES[slave]}", "100",
         "256 bits", shown_as]
        for master, slave in [(ALICE, BOB), (ALICE, EVE), (BOB, ALICE), (EVE, ALICE)]
    ]  # fmt: skip
