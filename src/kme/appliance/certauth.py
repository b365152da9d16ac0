"""certauth - the service that makes the site's certificates and signs Vault's authorities.

::

    certauth certs                 make what is missing, renew what ends soon
    certauth csr [--replace NAME]  sign the requests of Vault's authorities
    certauth show                  what there is, with fingerprints and end dates
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from kme.appliance.settings import ServiceSettings
from kme.appliance.start import load, one_line_errors
from kme.bootstrap.authorities import Done
from kme.bootstrap.certauth import make_certificates
from kme.bootstrap.csr import sign_requests
from kme.bootstrap.folders import Folders
from kme.bootstrap.inventory import take_inventory
from kme.bootstrap.profiles import Profiles, load_profiles
from kme.errors import CredentialError

_TABLE_WIDTH: Final = 160
"""Room for a fingerprint in one piece, also where no terminal says how wide it is."""

_app = typer.Typer(
    help="Certificates of this site: made, signed, shown.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class CertauthSettings(ServiceSettings):
    """The certificate authority."""

    site: str = Field(
        pattern=r"^\S(?:.{0,30}\S)?$",
        description="Name of this site; it stands in its authorities, for people to tell them "
        "apart.",
    )
    ca_dir: Path = Field(default=Path("/ca"), description="Keys of authorities; private.")
    exchange_dir: Path = Field(
        default=Path("/exchange"), description="Requests and certificates, shared with vault_init."
    )
    out_dir: Path = Field(default=Path("/out"), description="One folder per consumer.")
    profiles: Path = Field(
        default=Path("/app/profiles.toml"), description="What each certificate says."
    )

    @property
    def folders(self) -> Folders:
        """Where certificates lie."""
        return Folders(self.ca_dir, self.exchange_dir, self.out_dir)

    def load_profiles(self) -> Profiles:
        """Read the profiles, filled in with who this site is."""
        return load_profiles(self.profiles, self.id, self.site)


@_app.command()
def certs() -> None:
    """Make what is missing, renew what ends soon, leave the rest alone."""
    settings = load(CertauthSettings)
    with _reachable_files():
        _say(make_certificates(settings.load_profiles(), settings.folders, datetime.now(UTC)))


@_app.command()
def csr(
    *,
    replace: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Sign this one although it comes with another key than last time. Every "
            "certificate issued under the old key stops being valid.",
        ),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Sign the requests of Vault's authorities."""
    settings = load(CertauthSettings)
    with _reachable_files():
        profiles, now = settings.load_profiles(), datetime.now(UTC)
        _say(sign_requests(profiles, settings.folders, now, replace))


@_app.command()
def show() -> None:
    """Show what there is, with fingerprints and end dates."""
    settings = load(CertauthSettings)
    table = Table("certificate", "subject", "until", "SHA-256 of the certificate")
    with _reachable_files():
        for entry in take_inventory(settings.load_profiles(), settings.folders, datetime.now(UTC)):
            table.add_row(entry.name, entry.subject, entry.ends, entry.fingerprint)
    width = max(Console().width, _TABLE_WIDTH)
    Console(markup=False, highlight=False, width=width).print(table)


def _say(done: Iterable[Done]) -> None:
    for one in done:
        until = f"{one.certificate.not_valid_after_utc:%Y-%m-%d}"
        typer.echo(f"{one.name}: {one.what}; valid until {until}")


@contextmanager
def _reachable_files() -> Iterator[None]:
    """Say of a file that the system refuses to open what may be wrong with it."""
    try:
        yield
    except OSError as error:
        raise CredentialError(
            f"{error.filename or 'a file'}: {error.strerror}: is the volume mounted, does it "
            "belong to certauth, and has it room?"
        ) from error


def main() -> None:
    """Run the command that was given; what is wrong ends in one line and exit code 1."""
    with one_line_errors("certauth"):
        _app(prog_name="certauth")
