"""serve - two KMEs on one host with a running link between them, until asked to stop."""

import asyncio
import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from kme.clock import pause
from kme.epochs.qkde import LinkJob, StageReport
from kme.errors import KmeError, SettingsError, StageError
from kme.etsi014.client import open_client
from kme.files import write_whole
from kme.ids import KmeId, SaeId, SourceId
from kme.pair import Pair, PairPlan, lay_out
from kme.store.records import SourceClass
from kme.supervisor import Child, keep_running, kme_child, link_reports

_POLL_S: Final = 0.25
_LINK_RESTART_S: Final = 2.0
_MAX_STILLBORN: Final = 3
"""So many times in a row the link may fail before its first stage is done."""


@dataclass(frozen=True, slots=True)
class ServeJob:
    """What `kme serve` is asked to do.

    Parameters
    ----------
    plan
        The pair.
    driver
        Name of the QKD driver that feeds it.
    scenario
        Scenario of the simulated link; None for the driver's default.
    ready_file
        Written when keys can be drawn; None for no such file.
    """

    plan: PairPlan
    driver: str
    scenario: Path | None = None
    ready_file: Path | None = None


def source_of(driver: str) -> tuple[SourceId, SourceClass]:
    """Return how the source that a driver feeds is named and classed."""
    is_random = driver == "random"
    return SourceId(driver), SourceClass.RANDOM if is_random else SourceClass.QKD


async def serve(job: ServeJob, console: Console, stop: asyncio.Event) -> None:
    """Run the pair and its link until `stop`.

    Raises
    ------
    KmeError
        If the pair cannot be laid out, a KME dies too often, or the link fails
        again and again before its first stage is done.
    """
    if job.plan.source_class is SourceClass.RANDOM:
        console.print("WARNING: the source is random numbers of this host: no quantum key")
    job.plan.directory.mkdir(parents=True, exist_ok=True)
    with _only_one(job.plan.directory):
        pair = lay_out(job.plan)
        if job.ready_file is not None:
            job.ready_file.unlink(missing_ok=True)
        watch = _Watch(pair, console)
        try:
            async with asyncio.TaskGroup() as tasks:
                for place in pair.kmes:
                    tasks.create_task(watch.keep_kme(kme_child(place), place.id, stop))
                tasks.create_task(_keep_link(job, pair, console, stop))
                tasks.create_task(_announce(job, pair, console, stop))
        finally:
            stop.set()
    console.print("stopped; the next start continues where this one ended")


class _Watch:
    """The pair's processes as pair.json describes them."""

    def __init__(self, pair: Pair, console: Console) -> None:
        self._pair = pair
        self._console = console
        self._pids: dict[KmeId, int] = {}

    async def keep_kme(self, child: Child, kme: KmeId, stop: asyncio.Event) -> None:
        """Keep one KME running."""

        def on_start(pid: int) -> None:
            self._pids[kme] = pid
            self._pair.describe(self._pids)
            self._console.print(f"{kme}: runs as process {pid}")

        def on_death(code: int, words: str) -> None:
            self._console.print(f"{kme}: ended with code {code} and is started again: {words}")

        await keep_running(child, stop, on_start, on_death)


async def _keep_link(job: ServeJob, pair: Pair, console: Console, stop: asyncio.Event) -> None:
    """Run the link until `stop`; a link that fails is said and tried again."""
    link_job = LinkJob(
        (pair.kmes[0].epochs, pair.kmes[1].epochs),
        pair.directory / "link",
        job.scenario,
        is_continuous=True,
    )
    link_job.work.mkdir(exist_ok=True)
    n_stillborn = 0
    while not stop.is_set():
        reports: list[StageReport] = []
        run = asyncio.create_task(_show_link(job.driver, link_job, pair, console, reports))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({run, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not run.done():
            run.cancel()
        try:
            await run
        except asyncio.CancelledError:
            return
        except StageError as error:
            n_stillborn = 0 if reports else n_stillborn + 1
            if n_stillborn == _MAX_STILLBORN:
                raise
            console.print(f"link: {error}; it is started again in {_LINK_RESTART_S:.0f} s")
            await pause(stop, _LINK_RESTART_S)


async def _show_link(
    driver: str, job: LinkJob, pair: Pair, console: Console, reports: list[StageReport]
) -> None:
    """Run the link until its end, keep its last report, and say when it has made key."""
    async for report in link_reports(driver, job, pair.directory / "link.log"):
        reports[:] = [report]
        final_bits = report.facts.get("final_bits")
        if final_bits:
            console.print(f"link: {final_bits} bits of final key ({report.stage})")


async def _announce(job: ServeJob, pair: Pair, console: Console, stop: asyncio.Event) -> None:
    """Wait until keys can be drawn, then say how."""
    couple = first_couple(pair.saes)
    if couple is None:
        console.print("no two SAEs live at different KMEs: add some with --sae NAME@KME")
        return
    if not await _is_stocked(pair, couple, stop):
        return
    console.print("keys can be drawn; one key at both ends:")
    for line in curl_lines(pair, couple):
        console.print(line)
    if job.ready_file is not None:
        write_whole(job.ready_file, f"{pair.description}\n".encode())


def first_couple(saes: Mapping[SaeId, KmeId]) -> tuple[SaeId, SaeId] | None:
    """Return the first two SAEs that live at different KMEs."""
    return next(
        ((one, other) for one in saes for other in saes if saes[one] != saes[other]),
        None,
    )


async def _is_stocked(pair: Pair, couple: tuple[SaeId, SaeId], stop: asyncio.Event) -> bool:
    """Ask for the status, in both directions, until keys are in stock; False if stopped before."""
    return all(
        [
            await _has_keys(pair, master, slave, stop)
            for master, slave in (couple, couple[::-1])
            if not stop.is_set()
        ]
    )


async def _has_keys(pair: Pair, master: SaeId, slave: SaeId, stop: asyncio.Event) -> bool:
    place = pair.home_of(master)
    async with open_client(
        place.sae_url, pair.pki.sae_certificates[master], pair.pki.service_ca, place.id
    ) as client:
        while not stop.is_set():
            try:
                if (await client.status(slave)).stored_key_count > 0:
                    return True
            except KmeError:
                # Not up yet, or the peer isn't: asked again until someone stops us.
                pass
            await pause(stop, _POLL_S)
    return False


def curl_lines(pair: Pair, couple: tuple[SaeId, SaeId]) -> list[str]:
    """Return the shell lines that fetch a key at both ends."""
    master, slave = couple

    def curl(sae: SaeId) -> str:
        bundle = pair.pki.sae_certificates[sae]
        words = ["curl", "-s", "--cacert", str(pair.pki.service_ca)]
        words += ["--cert", str(bundle.certificate), "--key", str(bundle.key)]
        return shlex.join(words)

    enc = f"{pair.home_of(master).sae_url}/api/v1/keys/{slave}/enc_keys"
    dec = f"{pair.home_of(slave).sae_url}/api/v1/keys/{master}/dec_keys"
    return [
        f"{curl(master)} {shlex.quote(enc)}",
        f"{curl(slave)} {shlex.quote(dec + '?key_ID=')}KEY_ID",
    ]


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold the folder's lock, so that no second `serve` runs there."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SettingsError(
            f"{directory}: another `kme serve` runs there; stop it or name another --dir"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
