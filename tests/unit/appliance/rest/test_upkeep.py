"""What operators change in Vault is known to all workers soon."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kme.appliance.rest.health import Health
from kme.appliance.rest.settings import RestSection, RestSettings
from kme.appliance.rest.upkeep import Upkeep, UpkeepPorts
from kme.appliance.rest.vault import Kept
from kme.appliance.settings import LinkName
from kme.errors import IdentityError, StoreUnavailableError
from kme.ids import KmeId, SaeId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.revoked import RevocationMemory
from kme.registry.peers import PeerSite, write_site
from kme.registry.saes import SaeRegistry
from kme.secret import Secret
from kme.store.vault import VaultStore
from kme.supply.directory import SaeDirectory
from kme.supply.supply import LinkSupply
from kme.workers.listener import LivenessListener
from kme.workers.roll import Roll
from memory_documents import MemoryDocuments
from simulation import VirtualClock, run_virtual
from store_contract import add_block, claim

HERE, PEER, ALICE = KmeId("kme-1"), KmeId("kme-2"), SaeId("alice")
LINKS = (LinkName.read("kme-2/qkd-1"),)
YEAR = Validity.lasting(timedelta(days=365), datetime.fromtimestamp(VirtualClock().now_s(), UTC))
SAES = Authority.root("SAEs", YEAR)
CERTIFICATE = SAES.issue(Leaf("alice", TlsRole.CLIENT, ("sae-id:alice",)), YEAR).certificate
SITE = PeerSite(PEER, "b", "https://b:9443", "https://b:8443", "CA", "", "", 0.0)


@dataclass
class Saes:
    """The authority of SAEs in Vault, which may be away."""

    revoked: dict[int, datetime] = field(default_factory=dict)
    is_away: bool = False

    async def crl(self) -> str:
        if self.is_away:
            raise StoreUnavailableError("sealed")
        made = SAES.revocation_list(self.revoked, 1 + len(self.revoked), YEAR)
        return made.public_bytes(Encoding.PEM).decode()


class Worker:
    """One worker of the container whose folder is `run`."""

    def __init__(self, run: Path, clock: VirtualClock, documents: MemoryDocuments) -> None:
        self.clock, self.documents, self.saes = clock, documents, Saes()
        self.stop, self.directory = asyncio.Event(), SaeDirectory(HERE, (PEER,))
        self.registry = SaeRegistry(HERE, documents, clock)
        self.revoked = RevocationMemory(SAES.credential.certificate, clock)
        self.store = VaultStore(HERE, documents, Secret(bytes(32)))
        listener = LivenessListener(clock, 10)
        supply = LinkSupply(self.directory, self.store, listener, clock, "worker-x")
        self.roll = Roll(run)
        kept = Kept(documents, self.store, self.saes, ())  # type: ignore[arg-type]
        health = Health(clock, run / "alive")
        ports = UpkeepPorts(
            kept, self.registry, self.directory, self.revoked, supply, self.roll, health, clock
        )
        settings = RestSettings(id=HERE, links=LINKS, rest=RestSection(run=run))
        self.upkeep = Upkeep(settings, ports, self.stop)

    def is_revoked(self) -> bool:
        try:
            self.revoked.require_good(CERTIFICATE)
        except IdentityError:
            return True
        return False


def with_workers(tmp_path: Path, test: Callable[[Worker, Worker], Awaitable[None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        documents = MemoryDocuments()
        one, other = Worker(tmp_path, clock, documents), Worker(tmp_path, clock, documents)
        tasks = [asyncio.create_task(worker.upkeep.run()) for worker in (one, other)]
        await clock.sleep(1)
        await test(one, other)
        for worker in (one, other):
            worker.stop.set()
        await asyncio.gather(*tasks)

    run_virtual(main)


def test_before_anyone_is_let_in_saes_and_revocations_are_known(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        worker = Worker(tmp_path, clock, MemoryDocuments())
        await worker.registry.add(ALICE, "01")
        worker.saes.is_away = True
        with pytest.raises(StoreUnavailableError):
            await worker.upkeep.learn()
        worker.saes.is_away = False
        await worker.upkeep.learn()
        assert worker.directory.is_local(ALICE)
        worker.revoked.require_good(CERTIFICATE)

    run_virtual(main)


def test_a_new_sae_is_known_after_a_while_and_at_once_when_asked_for(tmp_path: Path) -> None:
    async def test(one: Worker, other: Worker) -> None:
        await one.registry.add(ALICE, "01")
        await one.upkeep.look()
        assert one.directory.is_local(ALICE)
        await one.clock.sleep(1.1)
        assert other.directory.is_local(ALICE)
        await one.registry.remove(ALICE)
        await one.clock.sleep(30.5)
        assert not one.directory.is_local(ALICE)
        assert not other.directory.is_local(ALICE)

    with_workers(tmp_path, test)


def test_a_revocation_is_known_within_seconds(tmp_path: Path) -> None:
    async def test(one: Worker, _other: Worker) -> None:
        assert not one.is_revoked()
        one.saes.revoked[CERTIFICATE.serial_number] = YEAR.start
        await one.clock.sleep(8.1)
        assert one.is_revoked()

    with_workers(tmp_path, test)


def test_an_outage_changes_nothing_and_ends_by_itself(tmp_path: Path) -> None:
    async def test(one: Worker, _other: Worker) -> None:
        one.saes.is_away = True
        await one.registry.add(ALICE, "01")
        await one.clock.sleep(60)
        assert not one.directory.is_local(ALICE)
        one.saes.is_away = False
        await one.clock.sleep(8.1)
        assert one.directory.is_local(ALICE)

    with_workers(tmp_path, test)


def test_a_peer_that_is_connected_makes_workers_start_again(tmp_path: Path) -> None:
    async def test(one: Worker, other: Worker) -> None:
        assert not one.stop.is_set()
        await write_site(one.documents, SITE)
        await one.upkeep.look()
        assert one.stop.is_set()
        await one.clock.sleep(1.1)
        assert other.stop.is_set()

    with_workers(tmp_path, test)


def test_a_worker_that_died_is_struck_off_the_roll(tmp_path: Path) -> None:
    async def test(one: Worker, _other: Worker) -> None:
        with one.roll.present("worker-alive"):
            (tmp_path / "workers" / "worker-dead").touch()
            await one.upkeep.look()
            assert one.roll.dead() == []
            assert (tmp_path / "workers" / "worker-alive").exists()

    with_workers(tmp_path, test)


def test_whoever_is_elected_closes_claims_of_those_who_are_gone_and_of_nobody_else(
    tmp_path: Path,
) -> None:
    async def test(one: Worker, _other: Worker) -> None:
        store = one.store
        await add_block(store, 1, owner=HERE, peer=PEER)
        await store.raise_peer_settled(PEER, 1)
        await claim(store, 8, "worker-gone", PEER)
        used = await claim(store, 8, "worker-alive", PEER)
        with one.roll.present("worker-alive"):
            assert await one.upkeep.close_lapsed_claims() == 1
            assert await store.claimants() == {"worker-alive"}
            frontier = await store.frontier(PEER)
            assert not frontier.is_behind(1, used.reserved.start), "keys are still cut there"

    with_workers(tmp_path, test)
