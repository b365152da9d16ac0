"""qkd - the service that runs a simulated link until both KMEs have enough key, then ends."""

import asyncio
import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kme.appliance.settings import LinkName, SiteSettings
from kme.appliance.start import serve
from kme.epochs.children import link_reports
from kme.epochs.qkde import LinkJob
from kme.epochs.used import UsedEpochs
from kme.errors import InputError, StageError
from kme.files import write_whole
from kme.ingest.folders import epoch_names, make_shared

_logger = logging.getLogger(__name__)

_FILE_MODE: Final = 0o660
"""The group of the folder reads and removes it: the watcher, or who transfers it."""


class LinkSettings(BaseModel):
    """What the link does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    driver: str = Field(default="sim", description="The QKD driver.")
    scenario: Path | None = Field(
        default=None, description="What is simulated, a TOML file; the laboratory if absent."
    )
    rounds: int = Field(default=1, ge=1, le=10_000, description="So many stretches at least.")
    min_bits: int = Field(
        default=0, ge=0, le=10**10, description="So much final key at least, in bits."
    )
    timeout_s: float = Field(
        default=900.0, gt=0, le=86_400, description="After so long there must be enough key."
    )

    @field_validator("scenario", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None


class QkdSettings(SiteSettings):
    """The simulated link."""

    qkd: LinkSettings = Field(default=LinkSettings(), description="What the link does.")
    work: Path = Field(default=Path("/work"), description="Its own folder: state, and raw keys.")
    epochs_in: Path = Field(
        default=Path("/epochs/in"), description="Final keys for this KME: `peer/source/epoch`."
    )
    epochs_out: Path = Field(
        default=Path("/epochs/out"), description="Final keys for the other: `peer/source/epoch`."
    )


async def run_qkd(settings: QkdSettings, stop: asyncio.Event) -> None:
    """Make key for each link, one after another; `stop` ends it early.

    Raises
    ------
    KmeError
        If a folder cannot be used, a stage fails, or there is too little key in time.
    """
    # numba insists on a folder that it may write to; the file system may be read-only.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(settings.work / "kernels"))
    for link in settings.links:
        maker = KeyMaker(settings, link)
        making = asyncio.create_task(maker.make())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({making, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not making.done():
            making.cancel()
            await asyncio.wait({making})
            _logger.warning("stopped before there was enough key", extra={"link": str(link)})
            return
        n_bits = making.result()
        _logger.info(
            "final keys are in the folders of both KMEs",
            extra={"peer": link.peer, "source": link.source, "bits_each": n_bits},
        )


class KeyMaker:
    """One link at work.

    The driver leaves final keys in the work folder; pairs of files that both
    sides have are handed over from there. A crash leaves them to the next
    start, so that no KME gets key that the other never sees.

    Parameters
    ----------
    settings
        How much key, and where it goes.
    link
        The high-count side is this KME, the other one the peer.
    """

    def __init__(self, settings: QkdSettings, link: LinkName) -> None:
        self._wanted = settings.qkd
        self._work = settings.work / link.peer / link.source
        self._final = (self._work / "final" / "hec", self._work / "final" / "lec")
        self._targets = (
            make_shared(settings.epochs_in, link.peer, link.source),
            make_shared(settings.epochs_out, link.peer, link.source),
        )

    async def make(self) -> int:
        """Run the link until there is enough key, and return how many bits either KME got.

        Raises
        ------
        StageError
            If a stage fails, or there is too little key in time.
        InputError
            If a folder cannot be used.
        """
        self._make_folders()
        # A second one would remove what the first one makes.
        with UsedEpochs(self._work / "service").alone():
            self._hand_over()  # what a run that was killed left behind
            try:
                async with asyncio.timeout(self._wanted.timeout_s):
                    return await self._run_link()
            except TimeoutError as error:
                raise StageError(
                    "link",
                    f"too little key within {self._wanted.timeout_s:.0f} s; what there is was "
                    "handed over. Ask for less (KME_QKD__MIN_BITS) or wait longer "
                    "(KME_QKD__TIMEOUT_S)",
                ) from error
            finally:
                self._tidy()

    async def _run_link(self) -> int:
        """Run the driver on and on: so it keeps no raw key and uses no epoch twice."""
        job = LinkJob(self._final, self._work, self._wanted.scenario, is_continuous=True)
        n_bits = n_rounds = 0
        log = self._work / "link.log"
        async with contextlib.aclosing(link_reports(self._wanted.driver, job, log)) as reports:
            async for report in reports:
                _logger.info(
                    "stage done",
                    extra={
                        "stage": report.stage,
                        "duration_s": report.duration_s,
                        "facts": dict(report.facts),
                    },
                )
                made_bits = report.facts.get("final_bits")
                if isinstance(made_bits, int):
                    n_rounds += 1
                    n_bits += made_bits
                    self._hand_over()
                if n_rounds >= self._wanted.rounds and n_bits >= self._wanted.min_bits:
                    return n_bits
        raise StageError("link", f"the driver ended by itself after {n_bits} bits")

    def _make_folders(self) -> None:
        try:
            for folder in self._final:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{error.filename}: the folder cannot be made: {error.strerror}"
            ) from error

    def _hand_over(self) -> None:
        """Move final keys that both sides have to where they are taken in from."""
        hec, lec = (epoch_names(folder) for folder in self._final)
        for name in sorted(hec & lec):
            # The other KME's first: here it shows when that one is not served.
            for folder, target in zip(self._final[::-1], self._targets[::-1], strict=True):
                write_whole(target / name, (folder / name).read_bytes(), _FILE_MODE)
            for folder in self._final:
                (folder / name).unlink()

    def _tidy(self) -> None:
        """Remove what is left: a final key of one side alone is of no use, and a secret."""
        self._hand_over()
        shutil.rmtree(self._work / "final", ignore_errors=True)
        shutil.rmtree(self._work / "stretch", ignore_errors=True)


def main() -> None:
    """Run the link as its environment says."""
    serve("qkd", QkdSettings, run_qkd)
