"""vault_init - the service that initialises Vault and sets it up (logic: kme.bootstrap).

::

    vault_init --first     Vault initialised, unsealed, asking for certificates of its three CAs
    vault_init --second    once certauth has signed: roles, policies, every service's certificate

Both may run again at any time: what is done is left alone, what is missing or
ends soon is made.
"""

import fcntl
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, Self

import typer
from pydantic import AfterValidator, Field, model_validator

from kme.appliance.settings import ServiceSettings, VaultSettings
from kme.appliance.start import load, one_line_errors
from kme.bootstrap.access import BootstrapError, VaultAddress, open_client
from kme.bootstrap.first import run_first
from kme.bootstrap.initialise import HalfInitialisedError, Sharing
from kme.bootstrap.places import Places
from kme.bootstrap.roles import Site, is_address
from kme.bootstrap.second import run_second
from kme.errors import SettingsError
from kme.ids import KmeId, SaeId
from kme.log import set_up_logging
from kme.pki.bundle import CredentialFiles

VOLUME_IS_EMPTY: Final = 3
"""Exit code: remove Vault's data volume, in which nothing was ever stored, and run this again."""

_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_MAX_SHARES: Final = 16


def _check_host(text: str) -> str:
    if not is_address(text) and not _HOST.fullmatch(text):
        msg = "must be one DNS name, such as kme-1.example.org, or one IP address"
        raise ValueError(msg)
    return text


class VaultInitSettings(ServiceSettings):
    """The initialisation of Vault."""

    vault: VaultSettings = Field(default=VaultSettings(), description="Where Vault is.")
    host: Annotated[str, AfterValidator(_check_host)] = Field(
        description="DNS name, or IP address, by which SAEs and other KMEs reach this KME."
    )
    shares: int = Field(
        default=5, ge=1, le=_MAX_SHARES, description="Into how many shares the unseal key is split."
    )
    threshold: int = Field(
        default=3, ge=1, le=_MAX_SHARES, description="How many of them unseal Vault."
    )
    first_sae: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="Id of the SAE that the installation begins with; `sae-` and the KME's id if "
        "empty.",
    )
    exchange_dir: Path = Field(
        default=Path("/exchange"), description="Requests and certificates, shared with certauth."
    )
    state_dir: Path = Field(default=Path("/state"), description="What runs remember.")
    policies_dir: Path = Field(
        default=Path("/policies"), description="Policy of each role of Vault: `ROLE.hcl`."
    )
    out_dir: Path = Field(default=Path("/out"), description="One folder per service.")
    audit_file: Path = Field(
        default=Path("/vault/audit/audit.log"), description="Vault's audit log, as Vault sees it."
    )

    @model_validator(mode="after")
    def _shares_suffice(self) -> Self:
        if self.threshold > self.shares:
            msg = "KME_THRESHOLD must not be larger than KME_SHARES"
            raise ValueError(msg)
        if self.threshold == 1 < self.shares:
            msg = "KME_THRESHOLD must be 2 or more if there is more than one share (Vault's rule)"
            raise ValueError(msg)
        return self

    @property
    def places(self) -> Places:
        """Where files lie."""
        return Places(self.exchange_dir, self.state_dir, self.policies_dir, self.out_dir)

    @property
    def site(self) -> Site:
        """What the operator chose."""
        first_sae = SaeId(self.first_sae or f"sae-{self.id}")
        return Site(KmeId(self.id), self.host, first_sae, self.vault.url)


_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@_app.command()
def vault_init(
    *,
    first: Annotated[
        bool, typer.Option("--first", help="Initialise Vault and write the requests of its CAs.")
    ] = False,
    second: Annotated[
        bool, typer.Option("--second", help="Set it up, once certauth has signed those.")
    ] = False,
) -> None:
    """Initialise Vault and set it up."""
    if first == second:
        raise SettingsError("say either --first or --second")
    settings = load(VaultInitSettings)
    set_up_logging(settings.log.level, settings.log.format)
    vault = settings.vault
    address = VaultAddress(vault.url, vault.ca, CredentialFiles(vault.certificate, vault.key))
    places = settings.places
    with _only_one(places.state), _reachable_files():
        client = open_client(address)
        if second:
            run_second(client, places, settings.site)
            return
        sharing = Sharing(settings.shares, settings.threshold)
        try:
            run_first(client, places, sharing, settings.audit_file)
        except HalfInitialisedError as error:
            typer.echo(f"vault_init: {error.message}", err=True)
            raise typer.Exit(VOLUME_IS_EMPTY) from error


def main() -> None:
    """Run the program."""
    # A container that is stopped shall revoke its root token on the way out.
    signal.signal(signal.SIGTERM, _end)
    with one_line_errors("vault_init"):
        _app(prog_name="vault_init")


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the lock of this site, so that two runs never meet."""
    try:
        descriptor = os.open(state / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(f"{state}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BootstrapError("another vault_init runs: wait for its end") from error
    finally:
        os.close(descriptor)


@contextmanager
def _reachable_files() -> Iterator[None]:
    """Say which file the system refuses."""
    try:
        yield
    except OSError as error:
        raise BootstrapError(
            f"{error.filename}: {error.strerror}; is its volume mounted, with its owner?"
        ) from error
