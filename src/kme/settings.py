"""settings - every setting of a KME process, checked before anything starts.

Values come from a TOML file (`kme run --config FILE`) and from the environment
(prefix ``KME_``, ``__`` between levels, which wins). Secrets are given by the
path of a file, never by value. Relative paths start at the configuration
file's folder. `docs/configuration.md` is made
from this module by `kme.settings_page`.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kme.errors import IdentifierError, SettingsError
from kme.etsi014.offer import Offer
from kme.ids import KmeId, SaeId, SourceId
from kme.log import LogFormat
from kme.pairing.pair import DEFAULT_STOCK_BYTES
from kme.store.records import MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, PART_BYTES, SourceClass
from kme.supply.grants import MAX_SLAVES
from kme.supply.reserves import Reserve


def _is(kind: Callable[[str], str]) -> AfterValidator:
    """Check a text by the rule of an identifier, in the words of that rule."""

    def check(text: str) -> str:
        try:
            return str(kind(text))
        except IdentifierError as error:
            raise ValueError(error.message) from error

    return AfterValidator(check)


KmeName = Annotated[str, _is(KmeId)]
SaeName = Annotated[str, _is(SaeId)]
SourceName = Annotated[str, _is(SourceId)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(_Section):
    """Where this KME keeps its keys."""

    path: Path = Field(description="SQLite file of the store; its folder must exist.")
    master_key: Path = Field(
        description="File of 32 random bytes, mode 0600, under which key is sealed at rest; "
        "made on the first start. Losing it loses every key."
    )


class InterfaceSettings(_Section):
    """One listener with mutual TLS."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(description="TCP port to listen on.")
    certificate: Path = Field(description="Server certificate with its chain, PEM.")
    key: Path = Field(description="Private key of that certificate, PEM, mode 0600.")
    client_ca: Path = Field(
        description="Certificates that client certificates are verified against, PEM."
    )
    client_crl: Path | None = Field(
        default=None, description="Revocation list for client certificates, PEM; none if absent."
    )


class SourceSettings(_Section):
    """What makes key for one pair of KMEs."""

    id: SourceName = Field(description="Name of the source; the same at both KMEs.")
    directory: Path = Field(description="Folder in which its final key files (type 7) arrive.")
    source_class: SourceClass = Field(
        default=SourceClass.QKD,
        alias="class",
        description="`qkd`, or `random` for bits that no quantum link made; status tells which.",
    )


class PeerSettings(_Section):
    """Another KME and the sources shared with it."""

    id: KmeName = Field(description="Id of the other KME.")
    url: str = Field(
        pattern=r"^https://[^/]+$",
        description="Its peer interface: `https://host:port`, no path.",
    )
    sources: list[SourceSettings] = Field(min_length=1, description="Sources shared with it.")


class SaeSettings(_Section):
    """An application that may ask for key, and its home."""

    id: SaeName = Field(description="Id of the SAE, as in its certificate (`sae-id:<id>`).")
    kme: KmeName = Field(description="The KME where it lives.")


class OfferSettings(_Section):
    """What SAEs may ask for (ETSI GS QKD 014 clause 6.1)."""

    key_size_bits: int = Field(
        default=256, ge=8, le=65536, multiple_of=8, description="Default size of a key."
    )
    min_key_size_bits: int = Field(
        default=8, ge=8, le=65536, multiple_of=8, description="Smallest size of a key."
    )
    max_key_size_bits: int = Field(
        default=65536, ge=8, le=65536, multiple_of=8, description="Largest size of a key."
    )
    max_key_per_request: int = Field(
        default=128, ge=1, le=10_000, description="Most keys in one request."
    )
    max_key_count: int = Field(
        default=1_000_000, ge=1, le=2**31 - 1, description="Upper bound of stored_key_count."
    )
    max_sae_id_count: int = Field(
        default=8,
        ge=0,
        le=MAX_SLAVES,
        description="Most additional slave SAEs in one request, for the same key; 0 for none.",
    )
    local_pairs: bool = Field(
        default=False,
        description="Whether two SAEs of this KME may have keys. No link makes them: they are "
        "random numbers of this host, and status says so.",
    )

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        if not self.min_key_size_bits <= self.key_size_bits <= self.max_key_size_bits:
            msg = "min_key_size_bits <= key_size_bits <= max_key_size_bits must hold"
            raise ValueError(msg)
        return self

    def of_kme(self, kme: KmeId) -> Offer:
        """Return what one KME offers."""
        return Offer(
            kme,
            self.key_size_bits,
            self.min_key_size_bits,
            self.max_key_size_bits,
            self.max_key_per_request,
            self.max_key_count,
            self.max_sae_id_count,
        )


class ReserveSettings(_Section):
    """Key that is kept for one pair of SAEs."""

    master: SaeName = Field(description="The SAE that asks for keys; it lives at this KME.")
    slave: SaeName = Field(description="The SAE that it shares them with.")
    n_bytes: int = Field(ge=1, description="So many bytes of the stock are given to nobody else.")

    def of_pair(self) -> Reserve:
        """Return the reserve."""
        return Reserve(SaeId(self.master), SaeId(self.slave), self.n_bytes)


class PairingSettings(_Section):
    """How this KME keeps in step with its peers."""

    heartbeat_interval_s: float = Field(
        default=1.0, gt=0, le=60, description="Time between heartbeats."
    )
    lease_s: float = Field(
        default=4.0,
        gt=0,
        le=300,
        description="A peer unheard for so long is away, and enc_keys for it answers 503.",
    )
    gather_s: float = Field(
        default=2.0,
        ge=0,
        le=600,
        description="How long final keys are gathered before a small block is formed.",
    )
    block_bytes: int = Field(
        default=PART_BYTES,
        ge=MIN_BLOCK_BYTES,
        le=MAX_BLOCK_BYTES,
        description="Size of a key block; smaller ones reach both KMEs' stocks sooner.",
    )
    request_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="Time-out of one call to a peer."
    )
    key_lifetime_s: int = Field(
        default=86_400,
        ge=1,
        description="How long a key may be drawn, at least; the longer one of what both KMEs set "
        "counts. Keys that nobody drew are destroyed soon after.",
    )

    max_stock_bytes: int = Field(
        default=DEFAULT_STOCK_BYTES,
        ge=MAX_BLOCK_BYTES,
        description="While both KMEs of a pair may allocate so much, no block is formed: final "
        "keys wait, then epoch files do, and the link pauses.",
    )

    @model_validator(mode="after")
    def _lease_outlasts_interval(self) -> Self:
        if self.lease_s <= self.heartbeat_interval_s:
            msg = "lease_s must be longer than heartbeat_interval_s"
            raise ValueError(msg)
        return self


class IngestSettings(_Section):
    """How final key files are taken in."""

    poll_interval_s: float = Field(
        default=0.25, gt=0, le=60, description="Time between looks into a source's folder."
    )


class LogSettings(_Section):
    """What is written to standard error."""

    level: str = Field(
        default="INFO",
        pattern="^(DEBUG|INFO|WARNING|ERROR)$",
        description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
    )
    format: LogFormat = Field(default=LogFormat.PLAIN, description="`plain` or `json`.")


class KmeSettings(BaseSettings):
    """A whole KME in one process (`kme run`)."""

    model_config = SettingsConfigDict(
        env_prefix="KME_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    id: KmeName = Field(description="Id of this KME.")
    store: StoreSettings = Field(description="Where this KME keeps its keys.")
    sae_interface: InterfaceSettings = Field(description="ETSI GS QKD 014 for SAEs.")
    peer_interface: InterfaceSettings = Field(
        description="Private interface for other KMEs, under a CA of its own; its certificate "
        "is also the client certificate towards them."
    )
    peers: list[PeerSettings] = Field(min_length=1, description="The other KMEs.")
    saes: list[SaeSettings] = Field(
        min_length=1, description="All SAEs of this KME and of its peers."
    )
    offer: OfferSettings = Field(default=OfferSettings(), description="What SAEs may ask for.")
    pairing: PairingSettings = Field(default=PairingSettings(), description="Keeping in step.")
    reserves: list[ReserveSettings] = Field(
        default=[], description="Key kept for certain pairs of SAEs, whatever others ask for."
    )
    ingest: IngestSettings = Field(default=IngestSettings(), description="Taking files in.")
    log: LogSettings = Field(default=LogSettings(), description="The log.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file; nothing else is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        known = {self.id, *(peer.id for peer in self.peers)}
        if len(known) != 1 + len(self.peers):
            msg = "peers: a KME id stands there twice, or is this KME's own"
            raise ValueError(msg)
        names = [sae.id for sae in self.saes]
        for sae in self.saes:
            if names.count(sae.id) > 1:
                msg = f"saes: {sae.id!r} stands there twice"
                raise ValueError(msg)
            if sae.kme not in known:
                msg = f"saes: {sae.id!r} lives at {sae.kme!r}, which is no KME named here"
                raise ValueError(msg)
        for peer in self.peers:
            if len({source.id for source in peer.sources}) != len(peer.sources):
                msg = f"peers: {peer.id!r} has two sources of one id"
                raise ValueError(msg)
        pairs = [(reserve.master, reserve.slave) for reserve in self.reserves]
        if len(set(pairs)) != len(pairs) or not {n for pair in pairs for n in pair} <= set(names):
            msg = "reserves: a pair of SAEs stands there twice, or an SAE is not one of `saes`"
            raise ValueError(msg)
        directories = [source.directory for peer in self.peers for source in peer.sources]
        if len(set(directories)) != len(directories):
            msg = "peers: two sources share a directory"
            raise ValueError(msg)
        return self


def load_settings(path: Path) -> KmeSettings:
    """Read and check a configuration file.

    Raises
    ------
    SettingsError
        If the file cannot be read, isn't TOML, or a setting is unknown, absent
        or wrong; the message names each field and its rule.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from error
    try:
        return KmeSettings(**_rooted(values, path.resolve().parent))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in fault['loc']) or 'file'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(f"{path}: {faults}") from error


_PATH_FIELDS = frozenset(
    {"path", "master_key", "certificate", "key", "client_ca", "client_crl", "directory"}
)


def _rooted(value: Any, folder: Path) -> Any:  # noqa: ANN401 - a TOML value is of any type
    """Return the values with every relative path made to start at `folder`."""
    if isinstance(value, dict):
        return {
            name: str(folder / part)
            if name in _PATH_FIELDS and isinstance(part, str)
            else _rooted(part, folder)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_rooted(part, folder) for part in value]
    return value
