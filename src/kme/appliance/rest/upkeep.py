"""upkeep - what changes in Vault while a worker runs: SAEs, revocation, peers, floors."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from kme.appliance.rest.health import Health
from kme.appliance.rest.settings import RestSettings
from kme.appliance.rest.vault import Kept, connected_sites
from kme.clock import Clock, pause
from kme.errors import CredentialError, KmeError, SettingsError
from kme.pki.revoked import RevocationMemory
from kme.registry.saes import SaeRegistry
from kme.supply.directory import SaeDirectory
from kme.supply.supply import LinkSupply
from kme.workers.roll import Roll

_logger = logging.getLogger(__name__)

_SELDOM: Final = 4
"""All but revocations are looked up in every fourth look only, and when an operator asks for it."""

_ASKED_S: Final = 1.0
_ASKED_NAME: Final = "look"


@dataclass(frozen=True, slots=True)
class UpkeepPorts:
    """What upkeep works with.

    Parameters
    ----------
    kept
        What is kept in Vault.
    registry
        Which SAE lives where.
    directory
        Whoever asks where an SAE lives looks here.
    revoked
        Whoever asks whether a certificate was revoked looks here.
    supply
        Must know of blocks that were cleared.
    roll
        Who works here, and who died.
    health
        Must know when Vault answered.
    clock
        The time.
    """

    kept: Kept
    registry: SaeRegistry
    directory: SaeDirectory
    revoked: RevocationMemory
    supply: LinkSupply
    roll: Roll
    health: Health
    clock: Clock


class Upkeep:
    """Looks into Vault now and then, and tells whoever needs to know.

    Parameters
    ----------
    settings
        Which links there are, and how often to look.
    ports
        Where to look, and whom to tell.
    stop
        Is set if the peers are others than at the start: a worker has the same
        ones as long as it lives, and another one takes its place.
    """

    def __init__(self, settings: RestSettings, ports: UpkeepPorts, stop: asyncio.Event) -> None:
        self._settings = settings
        self._ports = ports
        self._stop = stop
        self._asked = settings.rest.run / _ASKED_NAME
        self._answered_ns = self._asked_ns()

    @property
    def directory(self) -> SaeDirectory:
        """Which SAE lives where, as it was seen last."""
        return self._ports.directory

    async def learn(self) -> None:
        """Look for what must be known before anyone is let in: an SAE is told that it is unknown.

        Raises
        ------
        KmeError
            If Vault doesn't answer, or the registry of SAEs contradicts itself.
        """
        await self._look_for_revocations()
        await self._look_for_saes()

    async def run(self) -> None:
        """Look until `stop`."""
        was_well, n_looks = True, 0
        while not self._stop.is_set():
            is_asked, self._answered_ns = self._is_asked(), self._asked_ns()
            try:
                await self._look_for_revocations()
                if is_asked or n_looks % _SELDOM == 0:
                    await self._look_for_others()
            except KmeError as error:
                if was_well:
                    _logger.warning("Vault is not heard", extra={"reason": error.message})
                was_well, n_looks = False, 0
            else:
                self._ports.health.reached()
                was_well, n_looks = True, n_looks + 1
            await self._pause()

    def ask(self) -> None:
        """Have all workers here look for everything within a second."""
        self._asked.touch()

    async def look(self) -> None:
        """Look for everything, and have all workers here do so within a second.

        Raises
        ------
        KmeError
            If Vault doesn't answer.
        """
        self.ask()
        await self._look_for_revocations()
        await self._look_for_others()

    async def heed_cleared(self) -> None:
        """Use nothing any more that an operator cleared, in all workers here within a second.

        Raises
        ------
        KmeError
            If Vault doesn't answer.
        """
        self.ask()
        await self._ports.supply.heed_floors()

    async def close_lapsed_claims(self) -> int:
        """Close the claims of all workers that are not here any more; return how many.

        Those of the others stay open: keys are cut from them, and the frontier
        must not pass them.

        Raises
        ------
        KmeError
            If Vault doesn't answer.
        """
        store, roll = self._ports.kept.store, self._ports.roll
        # In this order: whoever has a claim was on the roll before.
        claimants = await store.claimants()
        gone = sorted(claimants.difference(roll.names()))
        return sum([await store.close_claims(name) for name in gone])

    async def _look_for_revocations(self) -> None:
        crl = await self._ports.kept.saes.crl()
        try:
            self._ports.revoked.learn(crl.encode())
        except CredentialError as error:
            _logger.error("revocation list refused", extra={"reason": error.message})

    async def _look_for_others(self) -> None:
        ports = self._ports
        try:
            await self._look_for_saes()
        except SettingsError as error:
            _logger.error("registry of SAEs refused", extra={"reason": error.message})
        await ports.supply.heed_floors()
        await ports.supply.release_old_claims()
        await self._close_claims_of_dead()
        if await connected_sites(ports.kept.documents, self._settings) != ports.kept.sites:
            _logger.info("peers were connected or disconnected: this worker starts again")
            self._stop.set()

    async def _look_for_saes(self) -> None:
        ports = self._ports
        population = await ports.registry.population(ports.directory.peers)
        if ports.directory.replace(population.residents):
            _logger.info("SAEs changed", extra={"n_saes": len(population.residents)})

    async def _close_claims_of_dead(self) -> None:
        for name in self._ports.roll.dead():
            n_claims = await self._ports.kept.store.close_claims(name)
            self._ports.roll.strike(name)
            _logger.warning("a worker died", extra={"worker": name, "n_claims": n_claims})

    async def _pause(self) -> None:
        """Wait until the next look is due or asked for."""
        poll_s, clock = self._settings.rest.poll_s, self._ports.clock
        due_s = clock.monotonic_s() + poll_s
        while clock.monotonic_s() < due_s and not self._stop.is_set() and not self._is_asked():
            await pause(self._stop, min(_ASKED_S, poll_s))

    def _is_asked(self) -> bool:
        return self._asked_ns() != self._answered_ns

    def _asked_ns(self) -> int:
        """Return when a worker here asked all of them to look; 0 before the first time."""
        try:
            return self._asked.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
