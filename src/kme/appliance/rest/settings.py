"""settings - what the rest service is told: its certificates, its links, what it offers."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kme.appliance.settings import SiteSettings, VaultSettings
from kme.settings import OfferSettings, PairingSettings, Port, ReserveSettings


class RestSection(BaseModel):
    """Its workers and their listeners; the files have defaults that fit the container."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(
        default=1,
        ge=1,
        le=32,
        description="Worker processes. More cut new keys faster where there are processors for"
        " them, but are slower at known keys: they write the same ledgers in turn.",
    )
    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104
    port: Port = Field(default=8443, description="Where Traefik passes on what SAEs ask.")
    peer_port: Port = Field(
        default=9443, description="Where it passes on what peers ask; operators call here too."
    )
    certificate: Path = Field(
        default=Path("/tls/server.pem"), description="Server certificate with its chain, PEM."
    )
    key: Path = Field(
        default=Path("/tls/server-key.pem"), description="Private key of that certificate, PEM."
    )
    services_ca: Path = Field(
        default=Path("/tls/services-ca.pem"), description="Issuer of the services' certificates."
    )
    sae_ca: Path = Field(
        default=Path("/tls/sae-ca.pem"), description="Issuer of the certificates of SAEs."
    )
    kme_certificate: Path = Field(
        default=Path("/tls/kme.pem"), description="Certificate shown to other KMEs, PEM."
    )
    kme_key: Path = Field(
        default=Path("/tls/kme-key.pem"), description="Private key of that certificate, PEM."
    )
    run: Path = Field(
        default=Path("/run/kme"), description="Folder of its own, emptied at every start."
    )
    poll_s: float = Field(
        default=8.0,
        gt=0,
        le=60,
        description="How often the revocation list is fetched from Vault; SAEs and peers are "
        "looked up every fourth time. What an operator changes is looked up within a second.",
    )


class AppliancePairing(PairingSettings):
    """How this KME keeps in step with its peers; slower than in one process, to idle cheaply."""

    heartbeat_interval_s: float = Field(
        default=4.0, gt=0, le=60, description="Time between heartbeats."
    )
    lease_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="A peer unheard for so long is away, and enc_keys for it answers 503.",
    )
    poll_s: float = Field(
        default=2.0, gt=0, le=2, description="How often to look for new final keys."
    )


class RestSettings(SiteSettings):
    """The rest service."""

    vault: VaultSettings = Field(default=VaultSettings(), description="Vault.")
    rest: RestSection = Field(default=RestSection(), description="Workers and listeners.")
    offer: OfferSettings = Field(default=OfferSettings(), description="What SAEs may ask for.")
    reserves: list[ReserveSettings] = Field(
        default=[], description="Key kept for certain pairs of SAEs, whatever others ask for."
    )
    pairing: AppliancePairing = Field(default=AppliancePairing(), description="Keeping in step.")
