"""first_sae - the SAE that an installation begins with: its certificate made once, registered.

::

    OUT/sae/<name>/sae.pem, sae-key.pem    its credential
    OUT/sae/<name>/sae.p12, password       the same as PKCS#12, and what opens it
    OUT/sae/<name>/root.pem                what its KME's certificate hangs under
"""

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import hvac

from kme.bootstrap.documents import Document, read_document, write_document
from kme.bootstrap.exchange import SiteAuthorities
from kme.bootstrap.issue import SECRET_MODE, Wanted, is_current, issue
from kme.bootstrap.roles import Site, sae_role
from kme.bootstrap.steps import Step
from kme.files import write_whole
from kme.pki.authority import Leaf
from kme.pki.bundle import (
    Credential,
    CredentialFiles,
    load_certificates,
    write_certificates,
    write_credential,
    write_pkcs12,
)
from kme.pki.identity import SAE_PREFIX
from kme.secret import Secret

REGISTRY: Final = "registry/saes"

Members = dict[str, Any]
"""What a document says of one SAE."""

_FOLDER_MODE: Final = 0o750
_PASSWORD_BYTES: Final = 18


class FirstSae:
    """One site's first SAE.

    It is made with the registry. Later an operator may have removed it, or
    taken its files away: neither is undone by another run. While it is
    registered and its files are here, they are renewed.

    Parameters
    ----------
    site
        Who it is.
    authorities
        Under whom.
    out
        The folder of all deliveries.
    now
        The present moment.
    """

    def __init__(self, site: Site, authorities: SiteAuthorities, out: Path, now: datetime) -> None:
        self._name = site.first_sae
        self._root = authorities.root
        self._folder = out / "sae" / site.first_sae
        self._now = now
        role = sae_role()
        leaf = Leaf(self._name, role.uses, (SAE_PREFIX + self._name,))
        files = CredentialFiles(self._folder / "sae.pem", self._folder / "sae-key.pem")
        self._wanted = Wanted(role, leaf, authorities.chain_of(role.engine), files)

    def is_settled_here(self) -> bool:
        """Return whether its files, if they are still here, need no renewal."""
        return not self._folder.exists() or self._has_files()

    def steps(self, client: hvac.Client) -> list[Step]:
        """Return the steps after which it has what it needs and is registered."""
        return [
            Step(
                f"SAE {self._name} has its certificate",
                lambda: self._is_served(read_document(client, REGISTRY)),
                lambda: self._deliver(issue(client, self._wanted)),
            ),
            Step(
                f"SAE {self._name} is registered with its certificate",
                lambda: self._is_registered(read_document(client, REGISTRY)),
                lambda: self._register(client),
            ),
        ]

    def _is_served(self, registry: Document | None) -> bool:
        if registry is None:
            return self._has_files()
        return self._entry(registry) is None or self.is_settled_here()

    def _is_registered(self, registry: Document | None) -> bool:
        if registry is None:
            return False
        entry = self._entry(registry)
        if entry is None or not self._folder.exists():
            return True
        return self._serial() in entry.get("serials", ())

    def _entry(self, registry: Document) -> Members | None:
        """Return what is registered of it; None if an operator removed it."""
        entry: Members | None = registry.data.get("saes", {}).get(self._name)
        return entry if entry is not None and entry.get("removed") is None else None

    def _register(self, client: hvac.Client) -> None:
        registry = read_document(client, REGISTRY) or Document({"saes": {}}, 0)
        entry = self._entry(registry) or {"since": int(self._now.timestamp()), "removed": None}
        serials = [*entry.get("serials", ()), self._serial()]
        saes = {**registry.data["saes"], self._name: {**entry, "serials": serials}}
        write_document(client, REGISTRY, {**registry.data, "saes": saes}, registry.version)

    def _serial(self) -> str:
        """Return its certificate's serial number as Vault writes it."""
        number = load_certificates(self._wanted.files.certificate, None)[0].serial_number
        return number.to_bytes((number.bit_length() + 7) // 8, "big").hex(":")

    def _has_files(self) -> bool:
        others = ("sae.p12", "password", "root.pem")
        return all((self._folder / name).is_file() for name in others) and is_current(
            self._wanted, self._now
        )

    def _deliver(self, credential: Credential) -> None:
        self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        password = secrets.token_urlsafe(_PASSWORD_BYTES).encode("ascii")
        write_whole(self._folder / "password", password + b"\n", SECRET_MODE)
        write_pkcs12(
            credential, self._name, Secret(password), self._folder / "sae.p12", SECRET_MODE
        )
        write_certificates([self._root], self._folder / "root.pem", SECRET_MODE)
        # Last, because its certificate is what tells that all is there.
        write_credential(credential, self._wanted.files, SECRET_MODE, SECRET_MODE)
