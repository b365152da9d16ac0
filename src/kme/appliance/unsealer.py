"""unsealer - Vault's seal watched, and undone after every restart (logic: kme.bootstrap.unseal)."""

import signal
import sys
from pathlib import Path
from types import FrameType

from pydantic import Field

from kme.appliance.settings import ServiceSettings, VaultSettings
from kme.appliance.start import load, one_line_errors
from kme.bootstrap.access import VaultAddress
from kme.bootstrap.unseal import Pace, SealApi, Unsealer
from kme.log import set_up_logging
from kme.pki.bundle import CredentialFiles


class UnsealerSettings(ServiceSettings):
    """The unsealer."""

    vault: VaultSettings = Field(default=VaultSettings(), description="Where Vault is.")
    shares_file: Path = Field(
        default=Path("/tls/shares.json"), description="File of as many shares as unseal Vault."
    )
    alive: Path = Field(
        default=Path("/run/kme/alive"), description="File that is touched while Vault is unsealed."
    )
    look_interval_s: float = Field(
        default=1.0, gt=0, le=60, description="Time between looks at Vault's seal."
    )
    retry_interval_s: float = Field(
        default=10.0, gt=0, le=600, description="Time until shares that failed are tried again."
    )


def main() -> None:
    """Watch Vault's seal until SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with one_line_errors("unsealer"):
        settings = load(UnsealerSettings)
        set_up_logging(settings.log.level, settings.log.format)
        vault = settings.vault
        address = VaultAddress(vault.url, vault.ca, CredentialFiles(vault.certificate, vault.key))
        Unsealer(
            SealApi(address, vault.timeout_s),
            settings.shares_file,
            settings.alive,
            Pace(settings.look_interval_s, settings.retry_interval_s),
        ).run()


def _end(number: int, frame: FrameType | None) -> None:
    """End at once, in whatever call the process waits."""
    del number, frame
    sys.exit(0)
