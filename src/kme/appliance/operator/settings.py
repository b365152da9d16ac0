"""settings - what the operator's program is told, and its sessions with Vault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kme.appliance.connect import MAX_SITE_CHARACTERS
from kme.appliance.settings import SiteSettings, VaultSettings
from kme.ids import KmeId
from kme.pki.bundle import CredentialFiles
from kme.registry.records import hold_of
from kme.settings import Port
from kme.vault.session import VaultAccess, VaultSession


class RestClientSettings(BaseModel):
    """Where this KME's own rest service is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="https://rest:9443", description="Where the rest service listens to operators."
    )
    ca: Path = Field(
        default=Path("/tls/services-ca.pem"), description="Issuer of its certificate, PEM."
    )
    timeout_s: float = Field(
        default=90.0, gt=0, le=600, description="Time-out of one request; clearing takes longest."
    )


class LifetimeSettings(BaseModel):
    """What the operator's program must know of how keys are kept."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key_lifetime_s: int = Field(
        default=86_400,
        ge=1,
        description="As the rest service is told: the id of a removed SAE is held that long.",
    )


class OperatorSettings(SiteSettings):
    """The operator's program."""

    site: str = Field(
        min_length=1, max_length=MAX_SITE_CHARACTERS, description="Name of the site, for people."
    )
    host: str = Field(min_length=1, description="DNS name by which others reach this KME.")
    sae_port: Port = Field(default=8443, description="Port for SAEs on this host.")
    peer_port: Port = Field(default=9443, description="Port for other KMEs on this host.")
    vault: VaultSettings = Field(default=VaultSettings(), description="Where Vault is.")
    rest: RestClientSettings = Field(
        default=RestClientSettings(), description="Where the rest service is."
    )
    pairing: LifetimeSettings = Field(default=LifetimeSettings(), description="How long keys live.")
    issued: Path = Field(
        default=Path("/issued"), description="Folder for the credentials of new SAEs."
    )
    peers_ca: Path = Field(
        default=Path("/out/traefik/peers-ca.pem"),
        description="File in which Traefik finds the authorities of connected KMEs.",
    )

    @property
    def kme(self) -> KmeId:
        """Id of this KME."""
        return KmeId(self.id)

    @property
    def peers(self) -> tuple[KmeId, ...]:
        """The KMEs that a link leads to."""
        return tuple(dict.fromkeys(link.peer for link in self.links))

    @property
    def hold_s(self) -> float:
        """For how long the id of a removed SAE is given to nobody else, in seconds."""
        return hold_of(self.pairing.key_lifetime_s)

    @property
    def credential(self) -> CredentialFiles:
        """The operator's own certificate and key."""
        return CredentialFiles(self.vault.certificate, self.vault.key)


@asynccontextmanager
async def vault_session(
    settings: OperatorSettings, role: str | None, timeout_s: float | None = None
) -> AsyncIterator[VaultSession]:
    """Log in to Vault as one of the operator's roles.

    Parameters
    ----------
    settings
        Where Vault is, and who we are.
    role
        ``inspect``, ``admin``, ``backup`` or ``restore``; None if only public
        certificates are asked for.
    timeout_s
        Longest wait for Vault, if not the one that is set.

    Raises
    ------
    CredentialError
        If the operator's certificate cannot be used.
    StoreUnavailableError
        If Vault cannot be reached, is sealed or refuses the login.
    """
    vault = settings.vault
    timeout_s = timeout_s or vault.timeout_s
    access = VaultAccess(vault.url, vault.ca, settings.credential, role, timeout_s)
    session = VaultSession(access, n_threads=4)
    try:
        await session.open()
        yield session
    finally:
        await session.close()
