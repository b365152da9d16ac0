"""access - where Vault is and who we are in, a synchronous client without a token out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import hvac
import requests
from hvac.exceptions import VaultError

from kme.errors import KmeError, StoreUnavailableError
from kme.pki.bundle import CredentialFiles, load_certificates, load_credential

_REQUEST_S: Final = 60.0
"""Initialising makes keys and elects a leader: seconds on a slow disk."""

_POLL_S: Final = 0.25
_LONGEST_REASON: Final = 300


class BootstrapError(KmeError):
    """Vault cannot be initialised or set up as things are."""

    code = "bootstrap"


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where Vault is, and the certificate that its listener lets in.

    Parameters
    ----------
    url
        ``https://host:port``.
    ca
        Root that Vault's certificate hangs under, PEM.
    credential
        Our client certificate.
    """

    url: str
    ca: Path
    credential: CredentialFiles


def open_client(address: VaultAddress) -> hvac.Client:
    """Return a client that has no token and takes nothing from the environment.

    Raises
    ------
    CredentialError
        If a certificate or key cannot be used; the message names the file.
    """
    now = datetime.now(UTC)
    load_credential(address.credential, now)
    load_certificates(address.ca, now)
    session = requests.Session()
    session.trust_env = False
    session.verify = str(address.ca)
    session.cert = (str(address.credential.certificate), str(address.credential.key))
    client = hvac.Client(
        url=address.url, session=session, timeout=_REQUEST_S, allow_redirects=False
    )
    # hvac looks for one in the environment and in the home folder.
    client.token = None
    return client


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn what goes wrong between us and Vault into an error that says at what.

    Raises
    ------
    StoreUnavailableError
        If Vault did not answer; whether it did what was asked is not known.
    BootstrapError
        If it refused.
    """
    try:
        yield
    except requests.exceptions.RequestException as error:
        raise StoreUnavailableError(
            f"{what}: Vault did not answer: {reason(error)}; look at its log and run this again"
        ) from error
    except VaultError as error:
        raise BootstrapError(f"{what}: Vault refused: {reason(error)}") from error


def wait_until_answering(client: hvac.Client, timeout_s: float) -> None:
    """Return as soon as Vault answers, sealed or not.

    Raises
    ------
    StoreUnavailableError
        If it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client.sys.read_seal_status()
        except (requests.exceptions.RequestException, VaultError) as error:
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"Vault does not answer at {client.url} within {timeout_s:.0f} s: "
                    f"{reason(error)}; is it running, and are its certificates of this site?"
                ) from error
        else:
            return
        time.sleep(_POLL_S)


def wait_until_active(client: hvac.Client, timeout_s: float) -> None:
    """Return as soon as an unsealed Vault leads its cluster of one and takes requests.

    Raises
    ------
    StoreUnavailableError
        If it does not in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with asking("asking whether Vault is active"):
            if client.sys.read_health_status().status_code == 200:
                return
        time.sleep(_POLL_S)
    raise StoreUnavailableError(
        f"Vault is unsealed and not active within {timeout_s:.0f} s: look at its log"
    )


def reason(error: Exception) -> str:
    """Return an error's own words, shortened; requests' bodies never stand in them."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
