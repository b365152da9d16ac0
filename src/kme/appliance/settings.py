"""settings - what services of the appliance are told: who they are, where Vault is, the log.

Every service reads its settings from the environment (prefix ``KME_``, ``__``
between levels); the Compose files pass on what a site chose in ``.env``, and
all paths have defaults that fit the containers. Secrets are files, never values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kme.errors import IdentifierError
from kme.ids import KmeId, SourceId
from kme.settings import KmeName, LogSettings

_T = TypeVar("_T")


class VaultSettings(BaseModel):
    """Where Vault is, and the certificate by which a service logs in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(default="https://vault:8200", description="Address of Vault.")
    ca: Path = Field(
        default=Path("/tls/vault-ca.pem"), description="Root that Vault's certificate hangs under."
    )
    certificate: Path = Field(
        default=Path("/tls/client.pem"), description="This service's client certificate, PEM."
    )
    key: Path = Field(
        default=Path("/tls/client-key.pem"), description="Private key of that certificate, PEM."
    )
    timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="Time-out of one request to Vault."
    )


@dataclass(frozen=True, slots=True)
class LinkName:
    """One source of key that this KME shares with a peer."""

    peer: KmeId
    source: SourceId

    @classmethod
    def read(cls, text: str) -> "LinkName":
        """Read ``peer/source``.

        Raises
        ------
        ValueError
            If it is not that, or one of the two is no id.
        """
        peer, slash, source = text.strip().partition("/")
        if not slash:
            msg = f"{text!r} must be PEER/SOURCE, for instance kme-2/qkd-1"
            raise ValueError(msg)
        return cls(_named(KmeId, peer), _named(SourceId, source))


def _named(kind: Callable[[str], _T], text: str) -> _T:
    try:
        return kind(text)
    except IdentifierError as error:
        raise ValueError(error.message) from error


def _links(value: object) -> object:
    if isinstance(value, str):
        return tuple(LinkName.read(text) for text in value.split(",") if text.strip())
    return value


Links = Annotated[tuple[InstanceOf[LinkName], ...], NoDecode, BeforeValidator(_links)]


class ServiceSettings(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(
        env_prefix="KME_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    id: KmeName = Field(description="Id of this KME.")
    log: LogSettings = Field(default=LogSettings(), description="The log.")


class SiteSettings(ServiceSettings):
    """What services are told that know the links of this KME."""

    links: Links = Field(
        min_length=1,
        description="Sources shared with other KMEs: `peer/source`, separated by commas.",
    )
