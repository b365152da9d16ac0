"""status - what each couple of SAEs of a running pair could be given now, as a table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from kme.errors import KmeError, SettingsError
from kme.etsi014.client import open_client
from kme.etsi014.messages import SOURCE_MEMBER
from kme.ids import KmeId, SaeId
from kme.pki.bundle import CredentialFiles
from kme.store.records import SourceClass


@dataclass(frozen=True, slots=True)
class PairDescription:
    """What `pair.json` tells programs about a pair.

    Parameters
    ----------
    sae_urls
        For each KME the base address for SAEs.
    homes
        For each SAE its KME.
    credentials
        For each SAE its certificate and its key.
    anchors
        For each KME the authority that SAEs know it by.
    """

    sae_urls: dict[KmeId, str]
    homes: dict[SaeId, KmeId]
    credentials: dict[SaeId, CredentialFiles]
    anchors: dict[KmeId, Path]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the description in a pair's folder.

        Raises
        ------
        SettingsError
            If there is none, or it cannot be understood.
        """
        path = directory / "pair.json"
        try:
            fields = json.loads(path.read_text())
            kmes = {KmeId(kme["id"]): kme for kme in fields["kmes"]}
            saes = {SaeId(sae["id"]): sae for sae in fields["saes"]}
            return cls(
                {name: _url(kme["sae_url"]) for name, kme in kmes.items()},
                {name: _known(KmeId(sae["kme"]), kmes) for name, sae in saes.items()},
                {
                    name: CredentialFiles(Path(sae["cert"]), Path(sae["key"]))
                    for name, sae in saes.items()
                },
                {name: Path(kme["ca"]) for name, kme in kmes.items()},
            )
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be read: {error.strerror}; does `kme serve` run there?"
            ) from error
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            KmeError,
        ) as error:
            raise SettingsError(
                f"{path}: is no description of a pair; `kme serve` writes a new one"
            ) from error

    def couples(self) -> list[tuple[SaeId, SaeId]]:
        """Return all master and slave SAEs that live at different KMEs."""
        return [
            (master, slave)
            for master in self.homes
            for slave in self.homes
            if self.homes[master] != self.homes[slave]
        ]


def _url(text: str) -> str:
    """Return an address that a client can be opened to."""
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.port is None:
        raise ValueError("is no address of a KME")
    return text


def _known(home: KmeId, kmes: Mapping[KmeId, object]) -> KmeId:
    """Return the home of an SAE, which must be described too."""
    if home not in kmes:
        raise ValueError("an SAE lives at a KME that is not described")
    return home


async def show_status(directory: Path, console: Console) -> None:
    """Show a table of what each couple could be given now.

    Raises
    ------
    KmeError
        If the pair is not described, or a KME does not answer.
    """
    pair = PairDescription.read(directory)
    table = Table("master SAE", "slave SAE", "keys in stock", "key size", "source")
    for master, slave in pair.couples():
        home = pair.homes[master]
        credential, anchor = pair.credentials[master], pair.anchors[home]
        async with open_client(pair.sae_urls[home], credential, anchor, home) as client:
            status = await client.status(slave)
        source = str((status.status_extension or {}).get(SOURCE_MEMBER, "unknown"))
        shown = "RANDOM, no quantum key" if source == SourceClass.RANDOM else source
        table.add_row(
            f"{master} @ {home}",
            f"{slave} @ {pair.homes[slave]}",
            str(status.stored_key_count),
            f"{status.key_size} bits",
            shown,
        )
    console.print(table)
