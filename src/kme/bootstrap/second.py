"""second - signed CA certificates in; roles, policies, the key store and all certificates out."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import hvac
from cryptography.hazmat.primitives.serialization import Encoding

from kme.bootstrap.access import BootstrapError, asking, wait_until_answering
from kme.bootstrap.delivery import (
    anchor_steps,
    certificate_steps,
    nobody_steps,
    sweep_partial_files,
    wanted_certificates,
)
from kme.bootstrap.documents import digest_key_step
from kme.bootstrap.engines import ENGINES, key_store_steps, signed_steps
from kme.bootstrap.exchange import SiteAuthorities, read_authorities
from kme.bootstrap.first import cluster_of, unseal
from kme.bootstrap.first_sae import FirstSae
from kme.bootstrap.initialise import remind_of_shares
from kme.bootstrap.marker import Marker, digest_of
from kme.bootstrap.places import Places
from kme.bootstrap.policies import policy_steps, read_policies
from kme.bootstrap.roles import LOGINS, Site, issuing_roles, login_steps, login_values
from kme.bootstrap.root_token import root_session
from kme.bootstrap.shares import read_shares
from kme.bootstrap.steps import Step, run_steps, settled

_logger = logging.getLogger(__name__)

_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SecondRun:
    """What one run makes of which inputs.

    Parameters
    ----------
    site
        What the operator chose.
    authorities
        What certauth signed.
    policies
        For each role of Vault its policy.
    places
        The folders.
    now
        The present moment.
    """

    site: Site
    authorities: SiteAuthorities
    policies: Mapping[str, str]
    places: Places
    now: datetime

    @property
    def sae(self) -> FirstSae:
        """The SAE that the installation begins with."""
        return FirstSae(self.site, self.authorities, self.places.out, self.now)

    def steps_in_vault(self, client: hvac.Client) -> list[Step]:
        """Return the steps that set Vault up."""
        steps = []
        for engine in ENGINES:
            certificate = self.authorities.of(engine)
            steps += signed_steps(client, engine, certificate, self.site.vault_url)
        steps += [settled(client, role.path, role.values()) for role in issuing_roles(self.site)]
        steps += key_store_steps(client)
        steps.append(digest_key_step(client))
        steps += policy_steps(client, self.policies)
        steps += login_steps(client, self.authorities.services)
        return steps

    def steps_in_folders(self, client: hvac.Client) -> list[Step]:
        """Return the steps that give every service its files."""
        out = self.places.out
        wanted = wanted_certificates(self.site, self.authorities, out)
        steps = anchor_steps(self.authorities, out) + nobody_steps(out)
        return steps + certificate_steps(client, wanted, self.now)

    def is_delivered(self, client: hvac.Client) -> bool:
        """Return whether all files are there and valid for a while; asks Vault nothing."""
        return self.sae.is_settled_here() and all(
            step.is_done() for step in self.steps_in_folders(client)
        )

    def digest(self, cluster: str) -> str:
        """Return what tells these inputs from any others."""
        certificates = [
            self.authorities.root,
            self.authorities.services_intermediate,
            *(self.authorities.of(engine) for engine in ENGINES),
        ]
        return digest_of(
            {
                "cluster": cluster,
                "site": asdict(self.site),
                "policies": dict(self.policies),
                "roles": {role.path: role.values() for role in issuing_roles(self.site)},
                "logins": {role: login_values(role) for role in LOGINS},
                "certificates": [
                    one.public_bytes(Encoding.PEM).decode("ascii") for one in certificates
                ],
            }
        )


def run_second(
    client: hvac.Client,
    places: Places,
    site: Site,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Set Vault up and deliver every certificate; what is done already is left as it is.

    Raises
    ------
    KmeError
        If something must be put right; the message says what.
    """
    sweep_partial_files(places.writable)
    moment = now()
    authorities = read_authorities(places.exchange, moment)
    run = SecondRun(site, authorities, read_policies(places.policies), places, moment)
    wait_until_answering(client, _WAIT_S)
    _require_first(client, places)
    shares = read_shares(places.unsealer_shares)
    unseal(client, shares)
    remind_of_shares(places)
    marker, digest = Marker(places.state / "second"), run.digest(cluster_of(client))
    if marker.stands_for(digest) and run.is_delivered(client):
        _logger.info("nothing_to_do", extra={"run": "second"})
        return
    with root_session(client, shares):
        run_steps(run.steps_in_vault(client))
        run_steps(run.steps_in_folders(client))
        run_steps(run.sae.steps(client))
    marker.write(digest)


def _require_first(client: hvac.Client, places: Places) -> None:
    if places.initialising.exists() or not Path(places.unsealer_shares).exists():
        raise BootstrapError("Vault is not initialised: run vault_init --first before")
    with asking("looking at Vault"):
        is_initialised: bool = client.sys.is_initialized()
    if not is_initialised:
        raise BootstrapError(
            "Vault is empty, though its unseal shares are here: run vault_init --first"
        )
