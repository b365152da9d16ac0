"""notifier - the service that announces epoch files already on disk, then ends."""

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kme.appliance.settings import SiteSettings
from kme.appliance.start import load, one_line_errors
from kme.clock import SystemClock
from kme.ingest.notifier import announce


class WaitSettings(BaseModel):
    """How long it waits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait_s: float = Field(
        default=30.0, gt=0, le=600, description="How long to wait for a watcher that listens."
    )


class NotifierSettings(SiteSettings):
    """The notifier."""

    notifier: WaitSettings = Field(default=WaitSettings(), description="How long it waits.")
    epochs: Path = Field(
        default=Path("/epochs/in"), description="Folder of epoch files: `peer/source/epoch`."
    )
    fifo: Path = Field(default=Path("/notices/fifo"), description="Where files are announced.")


def main() -> None:
    """Announce all files and say how many there were."""
    with one_line_errors("notifier"):
        settings = load(NotifierSettings)
        links = [(link.peer, link.source) for link in settings.links]
        n_files = announce(
            settings.fifo, settings.epochs, links, SystemClock(), settings.notifier.wait_s
        )
    sys.stdout.write(f"{n_files} epoch files announced\n")
