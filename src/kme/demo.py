"""demo - the main job once: photons at two sites to one key in two SAEs' hands."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from kme.epochs.qkde import Fact, LinkJob, StageReport
from kme.errors import (
    HandshakeError,
    KeyNotFoundError,
    KmeError,
    NotEntitledError,
    StageError,
    UnavailableError,
)
from kme.etsi014.client import DeliveredKey, Sae014Client, open_client
from kme.files import write_whole
from kme.ids import SaeId, SourceId
from kme.pair import DEFAULT_SAES, Pair, PairPlan, free_ports, lay_out
from kme.runtime import run
from kme.store.records import SourceClass
from kme.supervisor import kme_child, link_reports, stop_child

ALICE: Final = SaeId("alice")
BOB: Final = SaeId("bob")
EVE: Final = SaeId("eve")
SIDES: Final = ("hec", "lec")
"""The first KME stands at the high count side of the link, the second at the low count side."""

_STOCK_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class DemoJob:
    """What `kme demo` is asked to do.

    Parameters
    ----------
    scenario
        File that describes the simulated link; None for the driver's default.
    seed
        Makes the run repeatable, and its key no secret; None for fresh randomness.
    out
        Folder in which every file is kept; None for a temporary one.
    log_level
        Level of the KMEs' logs.
    """

    scenario: Path | None = None
    seed: int | None = None
    out: Path | None = None
    log_level: str = "INFO"


@dataclass(slots=True)
class Summary:
    """What came of it: figures of all stages, the key, and whether both ends are equal."""

    reports: list[StageReport] = field(default_factory=list)
    key: DeliveredKey | None = None
    equal: bool = False
    stored_keys: int = 0
    seed: int | None = None

    def fact(self, stage: str, name: str) -> Fact:
        """Return one stage's figure; None if the stage hasn't given it."""
        for report in self.reports:
            if report.stage == stage:
                return report.facts.get(name)
        return None

    def figures(self) -> dict[str, object]:
        """Return all figures as one flat object, the stages' durations in seconds."""
        return {
            "equal": self.equal,
            "key_id": str(self.key.key_id) if self.key else None,
            "key_bits": 8 * len(self.key.key) if self.key else None,
            "hec_events": self.fact("esim", "hec_events"),
            "lec_events": self.fact("esim", "lec_events"),
            "hec_rate_hz": self.fact("getrate", "hec_rate_hz"),
            "lec_rate_hz": self.fact("getrate", "lec_rate_hz"),
            "offset_ns": self.fact("pfind", "offset_ns"),
            "log10_p_value": self.fact("pfind", "log10_p_value"),
            "coincidences": self.fact("costream", "coincidences"),
            "accidentals": self.fact("costream", "accidentals"),
            "sifted_bits": self.fact("costream", "sifted_bits"),
            "qber": self.fact("errcd", "qber"),
            "disclosed_bits": self.fact("errcd", "disclosed_bits"),
            "efficiency": self.fact("errcd", "efficiency"),
            "secret_bits": self.fact("errcd", "final_bits"),
            "epsilon": self.fact("errcd", "epsilon"),
            "stored_keys": self.stored_keys,
            "seed": self.seed,
            "is_secret": self.seed is None,
            "stages": {report.stage: round(report.duration_s, 3) for report in self.reports},
        }


async def demo(job: DemoJob, console: Console) -> Summary:
    """Do the main job once.

    Returns
    -------
    Summary
        With `equal` true: every step held.

    Raises
    ------
    StageError
        If a step did not hold: which one, what was wrong, what to try.
    """
    with _directory(job.out) as directory:
        summary = Summary(seed=job.seed)
        run = _Run(job, directory, console, summary)
        await run.whole()
        return summary


class _Run:
    """One run of the demo, stage by stage."""

    def __init__(self, job: DemoJob, directory: Path, console: Console, summary: Summary) -> None:
        self._job = job
        self._directory = directory
        self._console = console
        self._summary = summary

    async def whole(self) -> None:
        """Run all stages with both KMEs up."""
        with self._stage("certificates"):
            pair = await asyncio.to_thread(lay_out, self._plan())
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._kmes(pair))
            await self._distil(pair)
            clients = {
                sae: await stack.enter_async_context(self._client(pair, sae)) for sae in pair.saes
            }
            with self._stage("ingest and pairing") as facts:
                facts["final_keys"] = await self._hand_over(pair)
                self._summary.stored_keys = await self._await_stock(clients[ALICE])
                facts["stored_keys"] = self._summary.stored_keys
            with self._stage("deliver") as facts:
                key = await self._deliver(clients)
                facts["key_id"] = key.key_id
                facts["equal"] = self._summary.equal
            with self._stage("refuse") as facts:
                await self._be_refused(pair, clients, key)
                facts["refused"] = "a second draw, a foreign SAE, a foreign CA"

    def _plan(self) -> PairPlan:
        return PairPlan(
            self._directory,
            free_ports(4),
            DEFAULT_SAES,
            SourceId("sim"),
            SourceClass.QKD,
            {
                "log": {"level": self._job.log_level},
                "pairing": {"gather_s": 0.5},
                "ingest": {"poll_interval_s": 0.1},
            },
        )

    @property
    def _chain(self) -> Path:
        return self._directory / "chain"

    def _final_keys(self) -> tuple[Path, Path]:
        high, low = (self._chain / side / "final" for side in SIDES)
        return high, low

    @contextmanager
    def _stage(self, name: str) -> Iterator[dict[str, Fact]]:
        """Time a stage, show it and keep its report; its errors carry its name."""
        facts: dict[str, Fact] = {}
        started_s = time.monotonic()
        try:
            with self._console.status(name):
                yield facts
        except StageError:
            raise
        except (KmeError, OSError) as error:
            raise StageError(name, str(error)) from error
        self._show(StageReport(name, time.monotonic() - started_s, facts))

    def _show(self, report: StageReport) -> None:
        self._summary.reports.append(report)
        facts = ", ".join(
            f"{name} {_shown(value)}" for name, value in report.facts.items() if value is not None
        )
        self._console.print(f"{report.stage:<19}{report.duration_s:7.2f} s  {facts}")

    @asynccontextmanager
    async def _kmes(self, pair: Pair) -> AsyncIterator[None]:
        """Run both KMEs as processes while the context lasts."""
        children = [kme_child(place) for place in pair.kmes]
        processes = [await child.start() for child in children]
        watch = asyncio.gather(*(process.wait() for process in processes))
        try:
            yield
        except StageError as error:
            for child, process in zip(children, processes, strict=True):
                if process.returncode is not None:
                    raise StageError(
                        child.name, f"its process ended: {child.last_words()}"
                    ) from error
            raise
        finally:
            await asyncio.gather(*(stop_child(process) for process in processes))
            await watch

    async def _distil(self, pair: Pair) -> None:
        """Run the link once: photon events to final key files of both sides."""
        job = LinkJob(self._final_keys(), self._chain, self._job.scenario, self._job.seed)
        with self._console.status("link") as status:
            async for report in link_reports("sim", job, pair.directory / "link.log"):
                self._show(report)
                status.update(f"link: {report.stage} is done")
        if not self._summary.fact("errcd", "final_bits"):
            raise StageError(
                "errcd", "no secret bits came out; try a scenario with more pairs or fewer errors"
            )

    async def _hand_over(self, pair: Pair) -> int:
        """Give each KME a copy of its own side's final key files; return how many there are."""
        n_files = 0
        for folder, place in zip(self._final_keys(), pair.kmes, strict=True):
            for path in sorted(folder.iterdir()):
                await asyncio.to_thread(
                    write_whole, place.epochs / path.name, path.read_bytes(), 0o600
                )
                n_files += 1
        return n_files

    async def _await_stock(self, alice: Sae014Client) -> int:
        """Wait until kme-a can hand out a key for bob; return how many."""
        deadline_s = time.monotonic() + _STOCK_TIMEOUT_S
        fault = "the stock stayed empty"
        while time.monotonic() < deadline_s:
            try:
                status = await alice.status(BOB)
            except KmeError as error:
                fault = str(error)
            else:
                if status.stored_key_count > 0:
                    return status.stored_key_count
            await asyncio.sleep(_POLL_S)
        raise StageError(
            "ingest and pairing",
            f"no key in stock after {_STOCK_TIMEOUT_S:.0f} s ({fault}); "
            "keep the logs with --out DIR and read kme-a.log and kme-b.log",
        )

    def _client(self, pair: Pair, sae: SaeId) -> AbstractAsyncContextManager[Sae014Client]:
        place = pair.home_of(sae)
        return open_client(
            place.sae_url, pair.pki.sae_certificates[sae], pair.pki.service_ca, place.id
        )

    async def _deliver(self, clients: Mapping[SaeId, Sae014Client]) -> DeliveredKey:
        """Let alice get a key and bob the same by its id."""
        [key] = await clients[ALICE].enc_keys(BOB)
        [same] = await clients[BOB].dec_keys(ALICE, [key.key_id])
        self._summary.key = key
        self._summary.equal = key.key == same.key
        if not self._summary.equal:
            raise StageError("deliver", "the two ends got different keys")
        return key

    async def _be_refused(
        self, pair: Pair, clients: Mapping[SaeId, Sae014Client], key: DeliveredKey
    ) -> None:
        """Ask for what must not be had."""
        await _expect(
            KeyNotFoundError,
            clients[BOB].dec_keys(ALICE, [key.key_id]),
            "bob got the same key a second time",
        )
        [following] = await clients[ALICE].enc_keys(BOB)
        await _expect(
            NotEntitledError,
            clients[EVE].dec_keys(ALICE, [following.key_id]),
            "eve got a key that was made for bob",
        )
        place, stranger = pair.home_of(ALICE), pair.home_of(BOB)
        foreign = pair.pki.kme_certificates[stranger.id]
        async with open_client(place.sae_url, foreign, pair.pki.service_ca, place.id) as client:
            # asyncio closes a connection whose certificate it refuses without the alert
            # that would name the reason, so that both errors stand for a refused handshake.
            await _expect(
                (HandshakeError, UnavailableError),
                client.status(BOB),
                "a certificate of the KME CA was admitted on the SAE port",
            )
        await clients[ALICE].status(BOB)


async def _expect(
    errors: type[KmeError] | tuple[type[KmeError], ...], request: Awaitable[object], otherwise: str
) -> None:
    """Hold that a request is refused just so."""
    try:
        await request
    except errors:
        return
    raise StageError("refuse", otherwise)


def _shown(value: Fact) -> str:
    """Return a figure for people: thousands apart, few digits behind the point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}".replace(",", " ")


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    """Return the folder of a run: the one to keep, or one that goes afterwards."""
    if out is not None:
        if out.exists() and any(out.iterdir()):
            raise StageError("start", f"--out {out}: is not empty; name a new folder")
        yield out.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="kme-demo-") as name:
        yield Path(name)


def run_demo(job: DemoJob, console: Console) -> Summary:
    """Do the main job once, from a program without an event loop.

    Raises
    ------
    KmeError
        See `demo`.
    """
    summaries: list[Summary] = []

    async def work(stop: asyncio.Event) -> None:
        main = asyncio.create_task(demo(job, console))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({main, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not main.done():
            # Ends the processes and removes the folder on its way out.
            main.cancel()
            await asyncio.wait({main})
            raise StageError("demo", "was stopped by a signal before its end")
        summaries.append(main.result())

    run(work)
    return summaries[0]


def show_summary(summary: Summary, console: Console, *, with_key: bool) -> None:
    """Show what came of a run; the key itself only if asked for."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in summary.figures().items():
        if name != "stages" and value is not None:
            table.add_row(name, _shown(value))  # type: ignore[arg-type]
    if with_key and summary.key is not None:
        table.add_row("key", summary.key.key.to_base64())
    console.print()
    console.print(table)
    console.print()
    if summary.seed is not None:
        console.print("This run can be repeated by its seed: its key is NO SECRET.")
    console.print("Both ends hold the same key; a second draw and strangers were refused.")
